"""Trains a network, faults included, and saves the checkpoint that is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.cold_data import PICTURES, Data
from tests.benchmarks.cold_networks import shifted

Optimizer = torch.optim.Optimizer
Build = Callable[[Iterable[nn.Parameter]], Optimizer]


def sgd(lr: float = 0.05, decay: float = 0.0, momentum: float = 0.9) -> Build:
    return lambda parameters: torch.optim.SGD(parameters, lr, momentum, weight_decay=decay)


def adam(
    lr: float = 1e-3,
    decay: float = 0.0,
    eps: float = 1e-8,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Build:
    return lambda parameters: torch.optim.Adam(parameters, lr, betas, eps, decay)


def adamw(lr: float = 1e-3, decay: float = 1e-2) -> Build:
    return lambda parameters: torch.optim.AdamW(parameters, lr, weight_decay=decay)


def named(kind: str, lr: float) -> Build:
    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        made: Optimizer = getattr(torch.optim, kind)(parameters, lr=lr)
        return made

    return build


def half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def linear_to_zero(done: float) -> float:
    return 1.0 - done


def warm_up(done: float) -> float:
    return min(1.0, done / 0.1)


@dataclass(frozen=True)
class Case:
    """A network and how it is trained.

    Attributes:
        kind: what is wrong by construction, or ``healthy``; of a hard case what makes it hard.
        rule: code of the rule that should find what is wrong; of GS302 and GS303 that is the
            truth, as only fresh networks have a warm one.
        shocks: at these steps the learning rate is what is given, for that one step.
        silenced: the step at which 80 % of the gated units get a bias of -100.
        first: by whom the weights were trained before.
        why: what makes its checkpoint tell less, or something else.
        clip: largest norm of the gradient.
        weights_only: without the optimizer.
        spoiled: the step at which the inputs are so many times too large.
        samples: in each of the batches that the warm truth is measured on.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    optimizer: Build
    rule: str = ""
    data: Data = PICTURES
    steps: int = 300
    batch: int = 64
    seed: int = 0
    clip: float | None = None
    schedule: Callable[[float], float] | None = None
    shocks: tuple[tuple[int, float], ...] = ()
    silenced: int | None = None
    first: Case | None = None
    freeze: int = 0
    weights_only: bool = False
    samples: int = 256
    spoiled: tuple[int, float] | None = None
    why: str = ""


def trained(case: Case) -> tuple[nn.Module, Optimizer]:
    """The network and its optimizer after the last step."""
    if case.first is None:
        torch.manual_seed(case.seed)
        model = case.build()
    else:
        model, _ = trained(case.first)
    for parameter in list(model.parameters())[: case.freeze]:
        parameter.requires_grad_(False)
    optimizer = case.optimizer(model.parameters())
    scheduler = None
    if case.schedule is not None:
        shape = case.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: shape(at / case.steps))
    shocks = dict(case.shocks)
    for step, batch in zip(range(case.steps), case.data.batches(case.batch), strict=False):
        if case.spoiled is not None and step == case.spoiled[0]:
            batch = (batch[0] * case.spoiled[1], batch[1])
        if step == case.silenced:
            shifted(model, 0.8, -100.0)
        usual = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = shocks.get(step, usual)
        optimizer.zero_grad()
        case.data.loss(model(batch[0]), batch).backward()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = usual
        if scheduler is not None:
            scheduler.step()
    return model, optimizer


def saved(case: Case, model: nn.Module, optimizer: Optimizer, path: Path) -> Path:
    """As most scripts save: the two state_dicts and the step."""
    held: dict[str, dict[str, Tensor] | dict[str, object] | int]
    held = {"model_state_dict": model.state_dict(), "step": case.steps}
    if not case.weights_only:
        held["optimizer_state_dict"] = optimizer.state_dict()
    torch.save(held, path)
    return path
