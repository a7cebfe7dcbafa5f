"""Ensembles: many small networks of one shape, trained side by side as one.

The runs are the last dimension of what is computed with, so that one operation does a layer of all.
Each run has its own weights, data, order of samples and optimizer state, drawn from a generator of
its own, and comes out as it would alone.

Worth it where a network is so small that a step costs its calls, not its arithmetic: here two units
a layer. Wide layers keep the cores busy by themselves, and gain nothing. For the same reason the
backward pass is written out: autograd's calls would cost as much again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradscope.derivatives import Derivative
from gradscope.examples.experiments.handover import Always, Handover

__all__ = ["Activation", "Ensemble", "Task", "common", "he", "train", "xavier"]

Initialise = Callable[[int, int, torch.Generator], Tensor]
"""Draws the weights ``(fan_out, fan_in)`` of a layer."""


def common(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """U(-k, k) with k = sqrt(1 / fan_in), torch's own; the paper's equation 12."""
    bound = math.sqrt(1 / fan_in)
    return torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)


def he(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """N(0, sqrt(2 / fan_in)); the paper's equation 13."""
    return torch.empty(fan_out, fan_in).normal_(0, math.sqrt(2 / fan_in), generator=generator)


def xavier(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    """N(0, sqrt(2 / (fan_in + fan_out))); the paper's equation 14."""
    scale = math.sqrt(2 / (fan_in + fan_out))
    return torch.empty(fan_out, fan_in).normal_(0, scale, generator=generator)


@dataclass(frozen=True)
class Activation:
    """What follows a layer, and what stands for its derivative.

    Attributes:
        derivative: an artificial one, which knows its operator and the true one too. Where it is
            selective, its ``unit_axis`` must be -1.
        arguments: of the operator, where they are not torch's defaults.
        handover: made for a number of runs; says which use the artificial derivative.
    """

    derivative: Derivative
    arguments: Mapping[str, Any] = field(default_factory=dict)
    handover: Callable[[int], Handover] = Always

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return self.derivative.operator(x, **self._arguments)

    def backward(self, gradient: Tensor, x: Tensor, y: Tensor, handover: Handover) -> Tensor:
        """The gradient at ``x``; all are ``(units, batch, runs)``."""
        derivative, share = self.derivative, handover.strength
        if share == 0 or handover.uses == "none":
            return derivative.true(gradient, x, y, **self._arguments)
        if getattr(derivative, "selective", False):
            # A unit of one run is another than the same unit of the next run.
            flat, at, of = (each.transpose(0, 1).flatten(1) for each in (gradient, x, y))
            found = derivative.backward(flat, at, of, share, **self._arguments)
            found = found.view(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)
        else:
            found = derivative.backward(gradient, x, y, share, **self._arguments)
        if handover.uses == "all":
            return found
        return torch.where(
            handover.artificial, found, derivative.true(gradient, x, y, **self._arguments)
        )

    @property
    def _arguments(self) -> dict[str, Any]:
        return {**self.derivative.arguments, **self.arguments}


class Ensemble:
    """Multi-layer perceptrons of one shape, and the gradient of their mean squared errors.

    Attributes:
        values: all weights and biases, ``(parameters, runs)``.
        gradient: of ``values``; each run's loss has its own.
        weights: of each layer, ``(fan_out, fan_in, 1, runs)``, views of ``values``.
        biases: of each layer, ``(fan_out, 1, runs)``, likewise.

    Args:
        widths: of inputs, hidden layers and outputs.
        initialise: draws the weights; biases are torch's own, U(-k, k) with k = sqrt(1 / fan_in).
        activation: after each layer.
        ends: whether it also follows the last layer.
        generators: one for each run.
    """

    def __init__(
        self,
        widths: Sequence[int],
        initialise: Initialise,
        activation: Activation,
        ends: bool,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.activation, self.ends = activation, ends
        self.handover = activation.handover(len(generators))
        shapes = list(pairwise(widths))
        # Biases are drawn as torch draws them, as one more weight into each unit: a column.
        drawn = [
            torch.cat(
                [
                    draw(fan_in, fan_out, generator)[:, :columns].flatten()
                    for fan_in, fan_out in shapes
                    for draw, columns in ((initialise, fan_in), (common, 1))
                ]
            )
            for generator in generators
        ]
        self.values = torch.stack(drawn, dim=-1)
        self.gradient = torch.zeros_like(self.values)
        self.weights, self.biases = _views(self.values, shapes)
        self._weight_gradients, self._bias_gradients = _views(self.gradient, shapes)
        # Views are made once: at this size making them takes as long as computing with them.
        self._columns = [list(weight.unbind(1)) for weight in self.weights]
        self._rows = [list(weight.unbind(0)) for weight in self.weights]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``(outputs, batch, runs)`` of inputs ``(inputs, batch, runs)``."""
        return self._passed(x)[-1]

    def _passed(self, x: Tensor) -> list[Tensor]:
        """Input, then what comes out of each layer and of each activation."""
        seen = [x]
        for index, (columns, z) in enumerate(zip(self._columns, self.biases, strict=True)):
            for column, unit in zip(columns, x.unbind(), strict=True):
                z = torch.addcmul(z, column, unit)
            x = self.activation.forward(z) if self._is_followed(index) else z
            seen += [z, x]
        return seen

    def _is_followed(self, layer: int) -> bool:
        return self.ends or layer < len(self.weights) - 1

    def differentiate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Fills ``gradient``, and returns the mean squared errors ``(runs,)``."""
        seen = self._passed(inputs)
        off = seen[-1] - targets
        g = off * (2 / (off.shape[0] * off.shape[1]))
        for index in reversed(range(len(self.weights))):
            x, z, y = seen[2 * index : 2 * index + 3]
            if self._is_followed(index):
                g = self.activation.backward(g, z, y, self.handover)
            torch.sum(g[:, None] * x, 2, keepdim=True, out=self._weight_gradients[index])
            torch.sum(g, 1, keepdim=True, out=self._bias_gradients[index])
            if index:
                rows, units = self._rows[index], g.unbind()
                g = rows[0] * units[0]
                for row, unit in zip(rows[1:], units[1:], strict=True):
                    g = g.addcmul_(row, unit)
        return off.square().mean((0, 1))


def _views(values: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of each layer in ``(parameters, runs)``."""
    weights, biases, start, runs = [], [], 0, values.shape[1]
    for fan_in, fan_out in shapes:
        end = start + fan_in * fan_out
        weights.append(values[start:end].view(fan_out, fan_in, 1, runs))
        biases.append(values[end : end + fan_out].view(fan_out, 1, runs))
        start = end + fan_out
    return weights, biases


@dataclass(frozen=True)
class Task:
    """What an ensemble is to learn, and how.

    Attributes:
        widths: see :class:`Ensemble`, as ``initialise``, ``activation`` and ``ends`` are.
        draw: inputs ``(inputs, samples)`` and targets ``(1, samples)`` of one run.
        samples: of training and of test data.
        optimizer: ``adam`` or ``sgd``.
        rate: learning rate.
        batch_size: samples in a step; a last smaller batch is left out.
        epochs: passes over the training data.
    """

    widths: tuple[int, ...]
    initialise: Initialise
    activation: Activation
    ends: bool
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    samples: tuple[int, int]
    optimizer: str
    rate: float
    batch_size: int
    epochs: int


@torch.no_grad()
def train(task: Task, seeds: Sequence[int]) -> Tensor:
    """Trains a run for each seed, all at once.

    Returns:
        The lowest mean squared error on the test data after any epoch, which the paper counts;
        ``(runs,)``, infinite where a run diverged in its first epoch.
    """
    # Once a large block was freed, glibc keeps the small ones that each step frees, instead of
    # handing them back to the system and getting them again.
    torch.empty(2**22)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    (inputs, targets), test = (
        [
            torch.stack(each, dim=1)
            for each in zip(*(task.draw(count, g) for g in generators), strict=True)
        ]
        for count in task.samples
    )
    unseen, truth = (x.transpose(1, 2).contiguous() for x in test)
    ensemble = Ensemble(task.widths, task.initialise, task.activation, task.ends, generators)
    optimizer = _optimizer(task, ensemble)
    best = torch.full((len(seeds),), math.inf)
    for _ in range(task.epochs):
        losses = []
        for batch in _batches(inputs, targets, task.batch_size, generators):
            losses.append(ensemble.differentiate(*batch))
            optimizer.step()
        ensemble.handover.step(torch.stack(losses).mean(0))
        best = torch.fmin(best, (ensemble(unseen) - truth).square().mean((0, 1)))
    return best


def _optimizer(task: Task, ensemble: Ensemble) -> torch.optim.Optimizer:
    """All of them work on each number by itself, so runs do not mix."""
    values = torch.nn.Parameter(ensemble.values)
    values.grad = ensemble.gradient
    if task.optimizer == "adam":
        return torch.optim.Adam([values], lr=task.rate, fused=True)
    return torch.optim.SGD([values], lr=task.rate, fused=True)


def _batches(
    inputs: Tensor, targets: Tensor, size: int, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over ``(units, runs, samples)``, in an order of each run's own."""
    samples = inputs.shape[2]
    order = torch.stack([torch.randperm(samples, generator=g) for g in generators])
    inputs, targets = (
        x.gather(2, order.expand_as(x)).transpose(1, 2).contiguous() for x in (inputs, targets)
    )
    for start in range(0, samples - size + 1, size):
        yield inputs[:, start : start + size], targets[:, start : start + size]
