"""How many times faster an ensemble is than one run after another.

    python tests/benchmarks/bench_ensemble.py [--runs 100] [--rounds 5]

The runs are those of Table 2's set A (Adam, mini-batches of 50, 3,000 samples), an epoch of each in
a round. One after another means plain torch: nn.Sequential, autograd, torch.optim's fused Adam. In
each round one ensemble and one single run are timed, in an order drawn anew; the ratio is the
single run's time times the number of runs, over the ensemble's. Both on one thread.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from gradscope.examples.experiments.command_line import positive
from gradscope.examples.experiments.ensemble import Task, train
from gradscope.examples.paper_relu_approximation import ARMS, LAYERS, RATES, task
from gradscope.patch import replace_derivative


def alone(task: Task, module: Callable[[], nn.Module], k: float | None) -> float:
    """Trains and tests one run by torch's own modules."""
    generator = torch.Generator().manual_seed(0)
    (inputs, targets), (unseen, truth) = (task.draw(count, generator) for count in task.samples)
    inputs, targets, unseen, truth = inputs.T, targets.T, unseen.T, truth.T
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(task.widths, task.widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), module()]
    model = nn.Sequential(*layers[:-1])
    if k is not None:
        replace_derivative(model, "relu-logistic", k=k, selective=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=task.rate, fused=True)
    loss_of = nn.functional.mse_loss
    best = float("inf")
    for _ in range(task.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        total = torch.zeros(())
        for part in order.split(task.batch_size):
            optimizer.zero_grad()
            loss = loss_of(model(inputs[part]), targets[part])
            loss.backward()
            optimizer.step()
            total += loss.detach()
        with torch.no_grad():
            best = min(best, loss_of(model(unseen), truth).item())
    return best


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=positive, default=100)
    parser.add_argument("--rounds", type=positive, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{arguments.runs} runs          ensemble, s an epoch   one run, s an epoch   times faster"
    )
    for layers in LAYERS:
        for arm, k in (("ReLU", None), ("AD ReLU", 3.5)):
            epoch = task("A", layers, ARMS[arm], RATES["A"], epochs=1)
            # An ensemble's data and first weights are drawn once in 300 epochs.
            several = replace(epoch, epochs=5)

            def together(several: Task = several) -> None:
                train(several, range(arguments.runs))

            def single(several: Task = several, k: float | None = k) -> None:
                alone(several, nn.ReLU, k)

            times: dict[Callable[[], None], list[float]] = {together: [], single: []}
            for round_ in range(arguments.rounds + 1):
                for work in random.sample(list(times), k=2):
                    taken = seconds(work) / several.epochs
                    if round_:  # the first is for warming up
                        times[work].append(taken)
            ratios = [
                one * arguments.runs / all_
                for all_, one in zip(times[together], times[single], strict=True)
            ]
            print(
                f"{layers} layers, {arm:8}{statistics.median(times[together]):16.4f}"
                f"{statistics.median(times[single]):22.4f}{statistics.median(ratios):15.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
