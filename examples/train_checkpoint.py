"""Trains a network that has two faults, and saves a checkpoint that shows them.

784-128x8-10 on Fashion-MNIST, SGD with momentum. The first six layers are sigmoids, through which
the gradient vanishes; three quarters of the units of the seventh, a ReLU, start with biases so low
that they are dead. What is saved is what training scripts save: model, optimizer, step.

    python examples/train_checkpoint.py checkpoint.pt
    gradscope scan checkpoint.pt
    python examples/train_checkpoint.py healthy.pt --healthy
    python examples/train_checkpoint.py run --every 50
    gradscope scan run

The healthy twin has ReLUs throughout, He's weights and biases of zero. With --every a folder of
checkpoints is saved, which is scanned as a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from gradscope.examples.fashion_mnist import SAMPLE, Batches, load_fashion_mnist

SIGMOIDS = 6
HIDDEN_LAYERS = 8
WIDTH = 128
DEAD_UNITS = 96
LOW_BIAS = -1.0
LEARNING_RATE = 0.01
MOMENTUM = 0.9
BATCH_SIZE = 64
STEPS = 300


def build_model(healthy: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten())
    for index in range(HIDDEN_LAYERS):
        saturates = index < SIGMOIDS and not healthy
        layer = nn.Linear(28 * 28 if index == 0 else WIDTH, WIDTH)
        if healthy:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif index == SIGMOIDS:
            nn.init.constant_(layer.bias[:DEAD_UNITS], LOW_BIAS)
            nn.init.constant_(layer.bias[DEAD_UNITS:], -LOW_BIAS)
        model.append(layer).append(nn.Sigmoid() if saturates else nn.ReLU())
    return model.append(nn.Linear(WIDTH, 10))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after_step: Callable[[int], None] = lambda taken: None,
) -> None:
    data = load_fashion_mnist(SAMPLE)
    batches = Batches(data.train_images, data.train_labels, BATCH_SIZE)
    taken = 0
    while taken < steps:
        for images, labels in islice(batches, steps - taken):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            taken += 1
            after_step(taken)


def save(
    path: Path, healthy: bool = False, steps: int = STEPS, seed: int = 0, every: int | None = None
) -> None:
    torch.manual_seed(seed)
    model = build_model(healthy)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def write(file: Path, taken: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": taken}
        torch.save(state, file)

    def write_some(taken: int) -> None:
        if every is not None and taken % every == 0:
            write(path / f"step_{taken}.pt", taken)

    if every is not None:
        path.mkdir(parents=True, exist_ok=True)
    train(model, optimizer, steps, write_some)
    if every is None:
        write(path, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", type=Path, help="where to save it; with --every, a folder")
    parser.add_argument("--healthy", action="store_true", help="the twin without the faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, metavar="N", help="save a checkpoint every N steps")
    arguments = parser.parse_args()
    save(arguments.path, arguments.healthy, seed=arguments.seed, every=arguments.every)
    print(f"saved {arguments.path}")


if __name__ == "__main__":
    main()
