"""What is measured in the compiled graph itself; what was counted is printed at the end."""

from __future__ import annotations

import copy
import io
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import relu

from gradscope.monitor import Monitor, Sampled
from gradscope.training import STEP_MEASURES
from tests.gradscope.monitor.compiled_trainings import (
    COMPILING,
    SAMPLED,
    WAYS,
    Told,
    Training,
    beside,
    counted,
    not_at_all,
    same,
    wrapped,
)

pytestmark = COMPILING


# --- Measured in the graph ----------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_stays_one(way: str, record_property: Told) -> None:
    plain = Training(not_at_all).end()
    without, alone = counted(lambda backend: Training(WAYS[way], None, backend=backend).end())
    for attached in ("before", "after"):
        counts, training = counted(
            lambda backend, attached=attached: Training(  # type: ignore[misc]
                WAYS[way], "in-graph", backend=backend, attached=attached
            ).end()
        )
        told = f"{way}, in-graph, attached {attached}: {beside(counts, without)}"
        record_property("measured", told)
        assert counts.pop("operators") > without["operators"]
        assert counts == {key: count for key, count in without.items() if key != "operators"}
        same(training.rows, plain.rows, 1e-5)
        assert torch.equal(training.weights, alone.weights)


@pytest.mark.parametrize(
    ("backend", "checkpointed", "autocast"),
    [("aot_eager", True, False), ("eager", False, True)],
)
def test_micro_batches_recomputation_and_autocast(
    backend: str, checkpointed: bool, autocast: bool
) -> None:
    plain, compiled = (
        Training(
            way,
            mode,
            backend=backend,
            checkpointed=checkpointed,
            batches=2,
            autocast=autocast,
        ).end()
        for way, mode in ((not_at_all, "eager"), (wrapped, "in-graph"))
    )
    assert sum(counters["graph_break"].values()) == 0
    same(compiled.rows, plain.rows, 2e-2 if autocast else 1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs Debian's g++, as inductor does")
def test_inductor() -> None:
    plain, compiled = (
        Training(way, mode, backend="inductor").take(6)
        for way, mode in ((not_at_all, "eager"), (wrapped, "in-graph"))
    )
    assert counters["stats"]["unique_graphs"] == 1
    assert compiled.steps == plain.steps == SAMPLED[:2]
    same(compiled.rows, plain.rows, 1e-3)
    for training in plain, compiled:
        training.close()


def test_what_was_compiled_before_is_compiled_again_aloud() -> None:
    training = Training(wrapped, "in-graph", attached="after a call").take(1)
    with pytest.warns(RuntimeWarning, match="compiled once more"):
        training.take(1)
    training.end()
    # The weights were moved by no call before.
    plain = Training(not_at_all).end()
    assert np.isnan(training.rows[0]).sum() > np.isnan(plain.rows[0]).sum()
    same(training.rows[1:], plain.rows[1:], 1e-5)


def test_calls_of_functions_are_said_not_to_be_measured() -> None:
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.leave(relu(self.enter(x)))
            return y

    model, sampled = Calling(), list[Sampled]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(
        model, optimizer, store=None, on_sample=sampled.append, compiled="in-graph", strict=True
    )
    forward = torch.compile(model, backend="eager", fullgraph=True)

    def step() -> None:
        forward(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        monitor.step()

    with pytest.warns(RuntimeWarning, match=r"1 places are not measured in the graph.*::relu"):
        step()
    step()
    monitor.close()
    assert [site.name for site in sampled[0].layout.sites] == ["enter", "leave"]
    assert np.isfinite(sampled[0].row[len(STEP_MEASURES) :][:2]).all()


def test_copies_are_not_watched_and_need_nothing_of_gradscopes() -> None:
    training = Training(not_at_all, "in-graph").take(3)
    x = training.x[0, 0]
    copied = copy.deepcopy(training.model)
    kept = io.BytesIO()
    torch.save(training.model, kept)
    loaded = torch.load(io.BytesIO(kept.getvalue()), weights_only=False)
    assert not any(
        b"gradscope.monitor" in pickle.dumps(hook)
        for module in training.model.modules()
        for hook in module._forward_hooks.values()
    )
    for other in (copied, loaded):
        torch._dynamo.reset()
        assert torch.equal(other(x), training.model(x))
        compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
        compiled(x).sum().backward()
    training.end()
    same(training.rows, Training(not_at_all).end().rows, 1e-5)
    assert not any(module._forward_hooks for module in training.model.modules())
