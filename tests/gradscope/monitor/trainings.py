"""Short trainings, with a monitor or without, that several tests watch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from gradscope.monitor import Monitor, Sampled
from gradscope.training import PARAMETER_MEASURES, SITE_MEASURES, STEP_MEASURES

FEATURES, CLASSES, BATCH = 12, 5, 16


class Net(nn.Module):
    """A module and a function as sites, one of them perhaps checkpointed, and dropout."""

    def __init__(self, *, inplace: bool = False, checkpointed: str = "") -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, 24)
        self.relu = nn.ReLU(inplace=inplace)
        self.dropout = nn.Dropout(0.2)
        self.middle = nn.Sequential(nn.Linear(24, 24), nn.ReLU(inplace=inplace))
        self.last = nn.Linear(24, CLASSES)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.relu(self.first(x)))
        if self.checkpointed:
            x = checkpoint(self.middle, x, use_reentrant=self.checkpointed == "reentrant")
        else:
            x = self.middle(x)
        return self.last(functional.tanh(x))


def batches(count: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(BATCH, FEATURES, generator=generator),
            torch.randint(0, CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(count)
    ]


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def trained(
    build: Callable[[], nn.Module] = Net,
    *,
    monitored: bool = True,
    steps: int = 8,
    micro: int = 1,
    after: Callable[[nn.Module, Optimizer], object] = lambda model, optimizer: None,
    optimizer_of: Callable[[nn.Module], Optimizer] = adam,
    **options: Any,
) -> tuple[nn.Module, list[Sampled], Monitor | None]:
    """Trains from a fixed seed; ``after`` is called between backward and the optimizer's step."""
    torch.manual_seed(0)
    model = build()
    optimizer = optimizer_of(model)
    rows: list[Sampled] = []
    options = {"every": 1, "overhead": None, "store": None, "strict": True} | options
    monitor = Monitor(model, optimizer, on_sample=rows.append, **options) if monitored else None
    data = iter(batches(steps * micro))
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(micro):
            inputs, targets = next(data)
            loss = functional.cross_entropy(model(inputs), targets) / micro
            loss.backward()
        after(model, optimizer)
        optimizer.step()
        if monitor is not None:
            monitor.step(loss)
    if monitor is not None:
        monitor.close()
    return model, rows, monitor


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def site(sampled: Sampled, name: str) -> dict[str, float]:
    """The measures of one site in a row."""
    names = [each.name for each in sampled.layout.sites]
    index = names.index(name)
    return {
        measure: float(sampled.row[sampled.layout.site_column(index, measure)])
        for measure in SITE_MEASURES
    }


def parameter(sampled: Sampled, name: str) -> dict[str, float]:
    """The measures of one parameter in a row."""
    names = [each.name for each in sampled.layout.parameters]
    index = names.index(name)
    return {
        measure: float(sampled.row[sampled.layout.parameter_column(index, measure)])
        for measure in PARAMETER_MEASURES
    }


def step_measure(sampled: Sampled, measure: str) -> float:
    return float(sampled.row[STEP_MEASURES.index(measure)])
