"""What an artificial derivative costs: time and memory beside the native operator's.

A row is one operator. In each round the native operator runs forward and backward twice (A and B)
and each contender once, all in an order drawn anew, so that a busy machine slows all alike; a
contender's ratio is its time over A's of the same round. Printed are medians of
the rounds. ``B / A`` is the control: what is not the contender's doing. Inputs are (rows, 100).

glibc is told to keep freed memory, as it does by itself in a training whose tensors are large.
Otherwise it hands some back to the system at each free, and getting it again takes up to five times
as long as the kernels that are compared; whom that strikes depends on the order of allocations.

Memory is what autograd keeps from the forward to the backward, counted by its hooks, in bytes an
element, once each storage; the native operator's is printed beside it. What is kept besides by the
layers around is not in it: native ReLU keeps its output, which the next layer keeps as well.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.derivatives import derivative

Operator = Callable[[Tensor], Tensor]

# name, parameters, and the native operator
MOST_USED: list[tuple[str, dict[str, object], Operator]] = [
    ("relu-logistic", {"selective": False}, torch.relu),
    ("relu-logistic", {"selective": True}, torch.relu),
    ("sigmoid-min", {}, torch.sigmoid),
    ("sigmoid-min", {"selective": True}, torch.sigmoid),
    ("sigmoid-beta", {}, torch.sigmoid),
    ("tanh-min", {}, torch.tanh),
]
OTHERS: list[tuple[str, dict[str, object], Operator]] = [
    ("tanh-min", {"selective": True}, torch.tanh),
    ("leaky-relu-logistic", {}, nn.functional.leaky_relu),
    ("relu6-logistic", {}, nn.functional.relu6),
    ("hardtanh-logistic", {}, nn.functional.hardtanh),
    ("hardsigmoid-logistic", {}, nn.functional.hardsigmoid),
    ("hardswish-logistic", {}, nn.functional.hardswish),
    ("elu-floor", {}, nn.functional.elu),
    ("gelu-floor", {}, nn.functional.gelu),
    ("silu-floor", {}, nn.functional.silu),
    ("mish-floor", {}, nn.functional.mish),
    ("softplus-floor", {}, nn.functional.softplus),
    ("softsign-floor", {}, nn.functional.softsign),
]
ELEMENTS = (100_000, 1_000_000, 4_000_000)
UNITS = 100
WARM_UP = 4
# glibc's mallopt: https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, where it is glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**25)


def timed(operator: Operator, x: Tensor, upstream: Tensor) -> float:
    """Seconds of the forward and the backward pass."""
    x.grad = None
    start = time.perf_counter()
    operator(x).backward(upstream)
    return time.perf_counter() - start


def compared(
    operators: list[Operator], elements: int, seconds: float, dead: float
) -> tuple[list[float], float, int]:
    """Median ratios to the first operator, its median seconds, and how many rounds there were."""
    x = torch.randn(elements // UNITS, UNITS)
    x[:, : int(dead * UNITS)] = -x[:, : int(dead * UNITS)].abs() - 8
    x.requires_grad_()
    upstream = torch.randn(elements // UNITS, UNITS)
    ratios: list[list[float]] = [[] for _ in operators]
    first: list[float] = []
    end = time.perf_counter() + seconds
    number = 0
    while number < WARM_UP + 15 or (time.perf_counter() < end and number < WARM_UP + 1000):
        order = random.sample(range(len(operators)), len(operators))
        taken = {index: timed(operators[index], x, upstream) for index in order}
        number += 1
        if number <= WARM_UP:
            continue
        first.append(taken[0])
        for index, all_of_it in enumerate(ratios):
            all_of_it.append(taken[index] / taken[0])
    return [statistics.median(each) for each in ratios], statistics.median(first), len(first)


def kept(operator: Operator) -> float:
    """Bytes an element that autograd keeps for the backward."""
    x = torch.randn(1000, UNITS, requires_grad=True)
    storages: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        result = operator(x)
    del result
    return sum(storages.values()) / x.numel()


class OneByte(torch.autograd.Function):
    """ReLU that keeps sigma(k x) in one byte, rounded to a 255th: tried, and not in the library."""

    @staticmethod
    def forward(context: Any, x: Tensor, k: float) -> Tensor:
        slope = torch.sigmoid(k * x).mul_(255).add_(0.5)
        context.save_for_backward(slope.to(torch.uint8))
        return torch.relu(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = context.saved_tensors
        return torch.mul(gradient, slope).mul_(1 / 255), None


def one_byte(x: Tensor) -> Tensor:
    result: Tensor = OneByte.apply(x, 2.0)
    return result


def rows_of(every: bool) -> dict[Operator, list[tuple[str, Operator]]]:
    """The contenders of each native operator, with their names."""
    found: dict[Operator, list[tuple[str, Operator]]] = {}
    for name, parameters, native in MOST_USED + (OTHERS if every else []):
        label = name + (", selective" if parameters.get("selective") else "")
        found.setdefault(native, []).append((label, derivative(name, parameters)))
    if every:
        found[torch.relu].append(("relu-logistic in one byte", one_byte))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each operator and size")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--every", action="store_true", help="also derivatives with no goal")
    parser.add_argument("--dead", type=float, default=0.0, help="share of idle units")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()
    print(f"torch {torch.__version__}; forward and backward over native; float32")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} threads, {arguments.dead:.0%} of the units idle")
        print(f"{'':<36}{'elements':>9}{'rounds':>7}{'ratio':>8}{'B / A':>8}  native      kept")
        for native, contenders in rows_of(arguments.every).items():

            def again(x: Tensor, native: Operator = native) -> Tensor:
                return native(x)

            for elements in ELEMENTS:
                operators = [native, again, *(operator for _, operator in contenders)]
                ratios, seconds, rounds = compared(
                    operators, elements, arguments.seconds, arguments.dead
                )
                for (name, operator), ratio in zip(contenders, ratios[2:], strict=True):
                    memory = f"{kept(operator):.1f} ({kept(native):.1f}) bytes"
                    print(
                        f"{name:<36}{elements:>9}{rounds:>7}{ratio:>7.2f}x{ratios[1]:>7.2f}x"
                        f"  {1e3 * seconds:6.2f} ms   {memory}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
