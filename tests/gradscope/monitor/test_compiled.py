"""Trainings under ``torch.compile``: nothing is compiled more often, or cut, because of a monitor.

What was counted is printed at the end, under "measured".
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy, relu
from torch.nn.utils import clip_grad
from torch.utils.checkpoint import checkpoint

from gradscope.monitor import Monitor, Sampled
from gradscope.training import STEP_MEASURES

STEPS = 11
SAMPLED = [1, 4, 8]
"""The first step is not among them: it shows where the sites are."""

STEADY = [index for index, name in enumerate(STEP_MEASURES) if name != "seconds"]

Row = npt.NDArray[np.float32]
Told = Callable[[str, object], None]


# The compiler itself uses what is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    assert stance() == "default"
    assert not _has_hooks()
    torch._dynamo.reset()


def stance() -> str:
    name: str = torch._dynamo.eval_frame._stance.stance
    return name


def _replaced() -> list[Any]:
    """What a sampled step puts something else in the place of."""
    dynamo: Any = torch._dynamo.decorators
    return [torch.nn.modules.module._has_any_global_hook, dynamo._set_stance]


def _has_hooks() -> bool:
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


def _wrapped(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, backend=backend, fullgraph=True)
    return compiled


def _in_place(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    model.compile(backend=backend, fullgraph=True)
    return model


def _in_a_function(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    @torch.compile(backend=backend, fullgraph=True)
    def forward(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        return y

    return forward


def _not_at_all(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    return model


WAYS = {"torch.compile(model)": _wrapped, "model.compile()": _in_place, "function": _in_a_function}


class Training:
    """Eleven steps, of which three are sampled, and the tenth is on a smaller batch.

    Attributes:
        rows: what the monitor measured, without durations.
        weights: all of them, at the end.
    """

    def __init__(
        self,
        way: Way = _wrapped,
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


def _counted(train: Callable[[Any], Training]) -> tuple[dict[str, int], Training]:
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


def _beside(counts: dict[str, int], without: dict[str, int]) -> str:
    return ", ".join(f"{count} {name} (without {without[name]})" for name, count in counts.items())


def _same(rows: list[Row], others: list[Row], error: float) -> None:
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        np.testing.assert_allclose(row, other, rtol=error, atol=1e-7)


# --- Sampled steps that are not compiled ----------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_added_to_what_is_compiled(way: str, record_property: Told) -> None:
    plain = Training(_not_at_all).end()
    without, alone = _counted(lambda backend: Training(WAYS[way], None, backend=backend).end())
    assert without["graph breaks"] == 0
    assert without["graphs"] == 2, "one for each size of batch"
    for attached in ("before", "after", "after a call"):
        counts, training = _counted(
            lambda backend, attached=attached: Training(  # type: ignore[misc]
                WAYS[way], "eager", backend=backend, attached=attached
            ).end()
        )
        record_property("measured", f"{way}, attached {attached}: {_beside(counts, without)}")
        assert counts == without
        assert training.steps == SAMPLED
        if attached != "after a call":
            # The backend runs what eager mode would.
            _same(training.rows, plain.rows, 0)
            assert torch.equal(training.weights, alone.weights)


@pytest.mark.parametrize("mode", ["eager", "in-graph"])
def test_a_watched_model_is_explained_as_one_graph(mode: str, record_property: Told) -> None:
    training = Training(_not_at_all, mode).take(3)
    explained = torch._dynamo.explain(training.model)(training.x[0, 0])
    record_property(
        "measured",
        f"torch._dynamo.explain, {mode}: {explained.graph_count} graph, "
        f"{explained.graph_break_count} breaks",
    )
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0
    training.close()


def test_a_whole_step_in_one_function_is_cut_no_more_than_without(record_property: Told) -> None:
    def train(backend: Any, mode: str | None) -> Training:
        training = Training(_not_at_all, mode)

        @torch.compile(backend=backend)
        def step(x: Tensor, y: Tensor) -> Tensor:
            training.optimizer.zero_grad()
            loss = cross_entropy(training.model(x), y)
            loss.backward()
            training.optimizer.step()
            return loss

        for x, y in zip(training.x, training.y, strict=True):
            loss = step(x[0], y[0])
            if training.monitor is not None:
                training.monitor.step(loss)
        if training.monitor is not None:
            assert training.monitor.skipped_steps == 0
        training.close()
        return training

    without, _ = _counted(lambda backend: train(backend, None))
    counts, training = _counted(lambda backend: train(backend, "eager"))
    record_property("measured", f"a whole step in one function: {_beside(counts, without)}")
    assert counts == without
    assert training.steps == SAMPLED


def test_a_step_may_end_inside_a_compiled_function() -> None:
    training = Training(_not_at_all)

    @torch.compile(backend="eager")
    def step(x: Tensor, y: Tensor) -> None:
        training.optimizer.zero_grad()
        loss = cross_entropy(training.model(x), y)
        loss.backward()
        training.optimizer.step()
        assert training.monitor is not None
        training.monitor.step(loss)

    for x, y in zip(training.x, training.y, strict=True):
        step(x[0], y[0])
    training.close()
    assert training.steps == SAMPLED


# --- The stance -------------------------------------------------------------------------------


def test_the_stance_is_worn_on_sampled_steps_alone() -> None:
    training = Training()
    worn = []
    for _ in range(STEPS):
        worn.append(stance())
        training.take(1)
    sampled = [step for step, name in enumerate(worn) if name == "force_eager"]
    assert sampled == [0, *SAMPLED]
    training.end()


def test_a_stance_of_the_users_stands() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        training = Training().take(3)
        assert stance() == "eager_on_recompile"
        training.take(1)
        assert stance() == "force_eager"
        training.end()
        assert stance() == "eager_on_recompile"


def test_a_stance_that_is_set_in_a_sampled_step_holds_from_its_end() -> None:
    training = Training(backend=CompileCounter()).take(4)
    assert stance() == "force_eager"
    with torch.compiler.set_stance("fail_on_recompile"):
        # Hooks are on, and would be something to recompile for.
        training.take(1)
        assert stance() == "fail_on_recompile"
        training.take(3)
        assert stance() == "force_eager"
    # What the block had found when it was entered, not what was worn then.
    training.take(1)
    assert stance() == "default"
    training.end()
    assert training.steps == SAMPLED


def test_two_monitors_wear_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = {name: value for name, value in vars(clip_grad).items() if callable(value)}
    for name, value in clips.items():
        monkeypatch.setattr(clip_grad, name, value)
    training = Training()
    other = training.attach()
    assert other is not None
    worn = []
    for _ in range(5):
        training.take(1)
        other.step()
        worn.append(stance())
    assert worn == ["force_eager", "default", "default", "force_eager", "default"]
    other.close()
    training.end()
    # What listens to clipping has to be taken off in any order, too.
    assert {name: getattr(clip_grad, name) for name in clips} == clips


def test_an_exception_in_a_sampled_step_leaves_nothing_worn() -> None:
    before = _replaced()
    training = Training()
    assert training.monitor is not None
    training.take(1)
    assert stance() == "force_eager"
    assert not any(one is other for one, other in zip(_replaced(), before, strict=True))
    with pytest.raises(KeyboardInterrupt), training.monitor:
        raise KeyboardInterrupt
    assert stance() == "default"
    assert _replaced() == before


def test_a_pause_in_a_sampled_step_is_not_taken_for_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def clock() -> float:
        return now

    for module in ("monitor", "sampler", "hooks", "optimizers"):
        monkeypatch.setattr(f"gradscope.monitor.{module}.perf_counter", clock)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    sampled: list[int] = []
    monitor = Monitor(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        store=None,
        every=10,
        dense=3,
        overhead=0.1,
        on_sample=lambda each: sampled.append(each.step),
        strict=True,
    )
    forward = torch.compile(model, backend="eager")
    for step in range(100):
        eager = stance() == "force_eager"
        # The first compiled step takes a minute, an eager one twice the time of the others, and
        # before the 51st there is an evaluation.
        now += 60 if step == 3 else 2 if eager else 1
        now += 1000 if step == 50 else 0
        forward(torch.ones(2, 4)).sum().backward()
        monitor.step()
    monitor.close()
    assert sampled == [1, 2, *range(10, 100, 10)]


# --- Measured in the graph ----------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_stays_one(way: str, record_property: Told) -> None:
    plain = Training(_not_at_all).end()
    without, alone = _counted(lambda backend: Training(WAYS[way], None, backend=backend).end())
    for attached in ("before", "after"):
        counts, training = _counted(
            lambda backend, attached=attached: Training(  # type: ignore[misc]
                WAYS[way], "in-graph", backend=backend, attached=attached
            ).end()
        )
        told = f"{way}, in-graph, attached {attached}: {_beside(counts, without)}"
        record_property("measured", told)
        assert counts.pop("operators") > without["operators"]
        assert counts == {key: count for key, count in without.items() if key != "operators"}
        _same(training.rows, plain.rows, 1e-5)
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
        for way, mode in ((_not_at_all, "eager"), (_wrapped, "in-graph"))
    )
    assert sum(counters["graph_break"].values()) == 0
    _same(compiled.rows, plain.rows, 2e-2 if autocast else 1e-5)


def test_inductor() -> None:
    plain, compiled = (
        Training(way, mode, backend="inductor").take(6)
        for way, mode in ((_not_at_all, "eager"), (_wrapped, "in-graph"))
    )
    assert counters["stats"]["unique_graphs"] == 1
    assert compiled.steps == plain.steps == SAMPLED[:2]
    _same(compiled.rows, plain.rows, 1e-3)
    for training in plain, compiled:
        training.close()


def test_what_was_compiled_before_is_compiled_again_aloud() -> None:
    training = Training(_wrapped, "in-graph", attached="after a call").take(1)
    with pytest.warns(RuntimeWarning, match="compiled once more"):
        training.take(1)
    training.end()
    # The weights were moved by no call before.
    plain = Training(_not_at_all).end()
    assert np.isnan(training.rows[0]).sum() > np.isnan(plain.rows[0]).sum()
    _same(training.rows[1:], plain.rows[1:], 1e-5)


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
    training = Training(_not_at_all, "in-graph").take(3)
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
    _same(training.rows, Training(_not_at_all).end().rows, 1e-5)
    assert not any(module._forward_hooks for module in training.model.modules())
