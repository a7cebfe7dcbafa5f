"""How the models of ``monitored.py`` are trained."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import torch
from torch import nn
from worker import Wrap

import gradscope

STEPS = 12
# Sampled: the steps 1 to 5, and 8. The last losses belong to no sample.
WHEN: dict[str, Any] = {"every": 4, "dense": 6, "overhead": None, "exact": True}

SAMPLES = 640
Batch = models.Batch


@dataclass(frozen=True)
class Case:
    """A model, how it is wrapped, and how it is trained.

    ``replicas``: how many ranks get the same samples; 0 is all of them. ``parts``: into how many
    micro-batches each batch is split.
    """

    kind: type[nn.Module]
    wrap: Wrap
    replicas: int = 1
    parts: int = 1
    clip: float | None = None


def built(kind: type[nn.Module]) -> nn.Module:
    """In float64, with a dead unit, one that is always positive and one that is saturated."""
    model = models.built(kind, torch.float64)
    with torch.no_grad():
        for name, bias in model.named_parameters():
            if name in ("first.bias", "features.0.bias") or name.endswith(("up.bias", "0.0.bias")):
                bias[1], bias[2] = -30.0, 30.0
            elif name in ("hidden.0.bias", "features.3.bias", "entry.bias"):
                # The second one is saturated more often than not, and still is not called so.
                bias[3], bias[4] = 30.0, 3.2
    return model


def drawn(kind: type[nn.Module]) -> list[Batch]:
    """Batches over all ranks."""
    if kind is models.Mixture:
        # Of which the experts depend on the place.
        return models.batches(kind, STEPS, torch.float64)
    generator = torch.Generator().manual_seed(3)
    shape = (SAMPLES, *models.INPUTS[kind])
    return [
        (
            torch.randn(shape, generator=generator, dtype=torch.float64),
            torch.randint(5, (SAMPLES,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def share(batch: Batch, rank: int, ranks: int) -> Batch:
    x, y = batch
    return x.chunk(ranks)[rank], y.chunk(ranks)[rank]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    # One by one: with tensor parallelism some parameters are DTensors, and some are not.
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, foreach=False)


def train(
    case: Case,
    model: nn.Module,
    batches: list[Batch],
    rank: int,
    ranks: int,
    monitor: gradscope.Monitor | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    for whole in batches:
        total = torch.zeros((), dtype=torch.float64)
        for part in range(case.parts):
            x, y = share(share(whole, part, case.parts), rank, ranks)
            last = part == case.parts - 1
            apart = contextlib.nullcontext() if last else getattr(model, "no_sync", None)
            with apart() if callable(apart) else contextlib.nullcontext():
                loss = models.loss(model(x), (x, y)) / case.parts
                loss.backward()
            total += loss.detach()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip, foreach=False)
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor.step(total)


class Watched:
    """A monitor, and what it tells."""

    def __init__(
        self, model: nn.Module | dict[str, nn.Module], store: Path | None, **when: Any
    ) -> None:
        whole = nn.ModuleDict(model) if isinstance(model, dict) else model
        self.optimizer = sgd(whole)
        self.samples: list[Any] = []
        self.monitor = gradscope.Monitor(
            model, self.optimizer, store=store, on_sample=self.samples.append, **(WHEN | when)
        )

    @property
    def told(self) -> dict[str, Any]:
        return {
            "steps": [sampled.step for sampled in self.samples],
            "rows": [sampled.row for sampled in self.samples],
            "losses": [sampled.losses for sampled in self.samples],
            "layout": self.monitor.layout,
            "path": self.monitor.path,
        }
