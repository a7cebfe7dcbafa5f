"""Trainings under ``torch.compile``, and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from gradscope.monitor import Monitor, Sampled
from gradscope.training import STEP_MEASURES

# The compiler itself uses what is deprecated.
COMPILING = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning",
        "ignore::FutureWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf",
    ),
]

STEPS = 11
SAMPLED = [1, 4, 8]
"""The first step is not among them: it shows where the sites are."""

STEADY = [index for index, name in enumerate(STEP_MEASURES) if name != "seconds"]

Row = npt.NDArray[np.float32]
Told = Callable[[str, object], None]


def stance() -> str:
    name: str = torch._dynamo.eval_frame._stance.stance
    return name


def replaced() -> list[Any]:
    """What a sampled step puts something else in the place of."""
    dynamo: Any = torch._dynamo.decorators
    return [torch.nn.modules.module._has_any_global_hook, dynamo._set_stance]


def has_hooks() -> bool:
    return bool(torch.nn.modules.module._has_any_global_hook())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rise = nn.Linear(16, 16), nn.ReLU(inplace=True)
        self.second, self.squash = nn.Linear(16, 16), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.squash(self.second(self.rise(self.first(x))))
        return y


class Net(nn.Module):
    """Two blocks, whose activations are sites, with or without checkpointing."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.enter, self.blocks = nn.Linear(8, 16), nn.ModuleList([Block(), Block()])
        self.leave, self.checkpointed = nn.Linear(16, 4), checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        y: Tensor = self.leave(x)
        return y


Way = Callable[[nn.Module, Any], Callable[[Tensor], Tensor]]


def wrapped(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend=backend, fullgraph=True)
    return compiled


def in_place(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    model.compile(backend=backend, fullgraph=True)
    return model


def in_a_function(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    @torch.compile(backend=backend, fullgraph=True)
    def forward(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        return y

    return forward


def not_at_all(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    return model


WAYS = {"torch.compile(model)": wrapped, "model.compile()": in_place, "function": in_a_function}


class Training:
    """Eleven steps, of which three are sampled, and the tenth is on a smaller batch.

    Attributes:
        rows: what the monitor measured, without durations.
        weights: all of them, at the end.
    """

    def __init__(
        self,
        way: Way = wrapped,
        mode: str | None = "eager",
        *,
        backend: Any = "eager",
        attached: str = "before",
        checkpointed: bool = False,
        batches: int = 1,
        autocast: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.model = Net(checkpointed=checkpointed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self._mode, self._sampled = mode, list[Sampled]()
        self.monitor: Monitor | None = None
        if attached == "before":
            self.monitor = self.attach()
        self.forward = way(self.model, backend)
        numbers = torch.Generator().manual_seed(1)
        self.x = torch.randn(STEPS, batches, 600, 8, generator=numbers)
        self.y = torch.randint(0, 4, (STEPS, batches, 600), generator=numbers)
        if attached == "after":
            self.monitor = self.attach()
        elif attached == "after a call":
            self.forward(self.x[0, 0]).sum().backward()
            self.monitor = self.attach()
        self._autocast, self._taken = autocast, 0

    def attach(self) -> Monitor | None:
        if self._mode is None:
            return None
        return Monitor(
            self.model,
            self.optimizer,
            store=None,
            dense=2,
            every=4,
            overhead=None,
            on_sample=self._sampled.append,
            compiled=self._mode,
            strict=True,
        )

    def take(self, steps: int) -> Training:
        for _ in range(steps):
            step, self._taken = self._taken, self._taken + 1
            self.optimizer.zero_grad()
            for x, y in zip(self.x[step], self.y[step], strict=True):
                rows = 300 if step == 9 else 600
                with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
                    loss = cross_entropy(self.forward(x[:rows]), y[:rows]) / len(self.x[step])
                loss.backward()
            self.optimizer.step()
            if self.monitor is not None:
                self.monitor.step(loss)
        return self

    def end(self) -> Training:
        self.take(STEPS - self._taken)
        self.close()
        return self

    def close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    @property
    def steps(self) -> list[int]:
        return [sampled.step for sampled in self._sampled]

    @property
    def rows(self) -> list[Row]:
        rest = len(STEP_MEASURES)
        return [np.concatenate([each.row[STEADY], each.row[rest:]]) for each in self._sampled]

    @property
    def weights(self) -> Tensor:
        return torch.cat([each.detach().flatten() for each in self.model.parameters()])


def counted(train: Callable[[Any], Training]) -> tuple[dict[str, int], Training]:
    torch._dynamo.reset()
    counters.clear()
    backend = CompileCounter()
    training = train(backend)
    return {
        "frames compiled": backend.frame_count,
        "operators": backend.op_count,
        "graphs": counters["stats"]["unique_graphs"],
        "graph breaks": sum(counters["graph_break"].values()),
    }, training


def beside(counts: dict[str, int], without: dict[str, int]) -> str:
    return ", ".join(f"{count} {name} (without {without[name]})" for name, count in counts.items())


def same(rows: list[Row], others: list[Row], error: float) -> None:
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(row, other, rtol=error, atol=1e-7)
