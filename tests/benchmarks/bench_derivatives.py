"""What an artificial derivative costs: forward and backward beside the native operator's.

Both take turns in one process, so that a busy machine slows both; the ratio of each round is taken
and the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gradscope.derivatives.relu_logistic import ReLULogistic
from gradscope.derivatives.sigmoid_min import SigmoidMin

Operator = Callable[[Tensor], Tensor]

PAIRS: list[tuple[str, Operator, Operator]] = [
    ("relu-logistic / ReLU", torch.relu, ReLULogistic()),
    ("sigmoid-min / sigmoid", torch.sigmoid, SigmoidMin()),
]
ELEMENTS = (100_000, 1_000_000, 4_000_000)
WARM_UP = 3


def timed(operator: Operator, x: Tensor, upstream: Tensor) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""
    x.grad = None
    start = time.perf_counter()
    y = operator(x)
    middle = time.perf_counter()
    y.backward(upstream)
    return middle - start, time.perf_counter() - middle


def ratios(
    native: Operator, artificial: Operator, elements: int, rounds: int
) -> tuple[list[float], float]:
    """Medians over rounds of forward, backward and both, artificial over native; native seconds."""
    x = torch.randn(elements, requires_grad=True)
    upstream = torch.randn(elements)
    seen: list[tuple[float, float, float]] = []
    whole: list[float] = []
    for number in range(WARM_UP + rounds):
        # Who goes first alternates: the second finds the caches as the first left them.
        first, second = (native, artificial) if number % 2 else (artificial, native)
        times = {first: timed(first, x, upstream)}
        times[second] = timed(second, x, upstream)
        if number < WARM_UP:
            continue
        one, other = times[artificial], times[native]
        seen.append((one[0] / other[0], one[1] / other[1], sum(one) / sum(other)))
        whole.append(sum(other))
    return [statistics.median(column) for column in zip(*seen, strict=True)], statistics.median(
        whole
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150, help="at the smallest size")
    parser.add_argument("--seconds", type=float, default=5.0, help="at most, for each row")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; artificial over native")
    print(f"{'':<24}{'elements':>10}{'rounds':>8}{'forward':>9}{'backward':>9}{'both':>7}  native")
    for name, native, artificial in PAIRS:
        for elements in ELEMENTS:
            _, seconds = ratios(native, artificial, elements, 3)
            rounds = max(9, min(arguments.rounds, int(arguments.seconds / (3 * seconds))))
            medians, seconds = ratios(native, artificial, elements, rounds)
            columns = f"{medians[0]:>8.2f}x{medians[1]:>8.2f}x{medians[2]:>6.2f}x"
            print(f"{name:<24}{elements:>10}{rounds:>8}{columns}  {1e3 * seconds:.2f} ms")


if __name__ == "__main__":
    main()
