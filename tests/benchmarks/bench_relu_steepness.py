"""What the steepness k of ReLU's artificial derivative does to a dying and to a live network.

    python tests/benchmarks/bench_relu_steepness.py [--seeds 10]

The dying one is examples/dying_relu.py (|x|, width 2, 8 layers, Adam 3e-3), judged by its test
loss. The live one is seven ReLU layers of 128 with N(0, 0.05) weights under SGD 0.05 on the shipped
sample of Fashion-MNIST, judged by its test accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from gradscope.examples import deep_sigmoid_mlp, dying_relu
from gradscope.examples.fashion_mnist import SAMPLE, Batches, load_fashion_mnist
from gradscope.examples.training import accuracy
from gradscope.patch import apply
from gradscope.records import Change, Plan, Prescription

STEEPNESSES = (None, 1.0, 2.0, 3.5, 10.0)
DYING_STEPS = 2000
LIVE_STEPS = 1400


def patched(model: nn.Module, k: float | None) -> nn.Module:
    if k is not None:
        sites = tuple(name for name, module in model.named_modules() if type(module) is nn.ReLU)
        settings: dict[str, Any] = {"derivative": "relu-logistic", "k": k}
        prescription = Prescription(
            "artificial-derivative", (Change.BACKWARD,), sites, settings, "GS201", "measurement"
        )
        apply(model, Plan((prescription,)))
    return model


def train(
    model: nn.Module,
    data: Iterable[Any],
    loss: Callable[[Any, Any], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
) -> None:
    batches = itertools.chain.from_iterable(itertools.repeat(data))
    for batch in itertools.islice(batches, steps):
        optimizer.zero_grad()
        loss(model(batch[0]), batch).backward()
        optimizer.step()


def dying(k: float | None, seed: int) -> float:
    torch.manual_seed(seed)
    model = patched(dying_relu.build_model(), k)
    optimizer = dying_relu.build_optimizer(model.parameters())
    train(model, dying_relu.build_data(), dying_relu.loss, optimizer, DYING_STEPS)
    return dying_relu.evaluate(model)["test loss"]


def live(k: float | None, seed: int) -> float:
    torch.manual_seed(seed)
    model = deep_sigmoid_mlp.build_model()
    for name, module in list(model.named_children()):
        if isinstance(module, nn.Sigmoid):
            setattr(model, name, nn.ReLU())
    data = load_fashion_mnist(SAMPLE)
    batches = Batches(data.train_images, data.train_labels, deep_sigmoid_mlp.BATCH_SIZE)
    optimizer = torch.optim.SGD(model.parameters(), lr=deep_sigmoid_mlp.LEARNING_RATE)
    train(patched(model, k), batches, deep_sigmoid_mlp.loss, optimizer, LIVE_STEPS)
    return accuracy(model, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    print("k      dying: mean loss  median   live: mean accuracy  lowest")
    for k in STEEPNESSES:
        losses = [dying(k, seed) for seed in seeds]
        accuracies = [live(k, seed) for seed in seeds[: max(1, len(seeds) // 3)]]
        print(
            f"{'ReLU' if k is None else format(k, 'g'):6} {statistics.fmean(losses):12.4f}"
            f"{statistics.median(losses):12.4f}{statistics.fmean(accuracies):15.3f}"
            f"{min(accuracies):14.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
