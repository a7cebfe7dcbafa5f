from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.monitor.automatic import Automatic
from gradscope.profile import profile as profiled
from gradscope.records import Profile, Severity
from gradscope.rules.subjects import perceptron
from gradscope.training import Alert

STEPS = 4

Events = list[tuple[int, str, dict[str, Any]]]


class Training:
    """A training of a few steps an epoch, whose epochs' losses the test chooses."""

    def __init__(
        self,
        automatic: Automatic,
        activation: Callable[[], nn.Module] = nn.ReLU,
        build: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.model = perceptron(activation, layers=2)
        self.optimizer = (build or (lambda each: torch.optim.SGD(each, lr=0.1)))(
            self.model.parameters()
        )
        self.automatic, self.steps = automatic, 0
        self.events: Events = []
        self.inputs, self.targets = torch.randn(16, 32), torch.randint(0, 10, (16,))
        self.automatic.attach(
            self.model, [self.optimizer], lambda *event: self.events.append(event), self.profile
        )

    def profile(self) -> Profile:
        batches = [(self.inputs, self.targets)]
        return profiled(
            self.model, batches, lambda y, batch: nn.functional.cross_entropy(y, batch[1]), steps=1
        )

    def backward(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.inputs), self.targets).backward()

    def epoch(self, loss: float, *alerts: Alert) -> None:
        for _ in range(STEPS):
            self.backward()
            self.optimizer.step()
            self.automatic.step()
            self.steps += 1
        self.automatic.epoch(self.steps, loss, alerts)

    def update(self) -> Tensor:
        """How far one more step moves the last bias."""
        model, optimizer = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        before = self.model[-1].bias.detach().clone()
        self.backward()
        self.optimizer.step()
        moved = self.model[-1].bias.detach() - before
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        return moved

    def gradient(self) -> Tensor:
        self.backward()
        assert self.model[0].weight.grad is not None
        return self.model[0].weight.grad.clone()

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(kind, data["remedy"], data.get("state", "")) for _, kind, data in self.events]


def alert(code: str, name: str, *sites: str, **changed: Any) -> Alert:
    return replace(Alert(code, name, Severity.ERROR, sites, "", {}, None, 1), **changed)


TOO_LARGE = alert("GS503", "loss-divergence")
SATURATED = alert("GS101", "vanishing-gradient", "1")
SPIKE = alert("GS104", "gradient-spike", "0.weight")


def test_nothing_happens_without_an_alert_that_stands() -> None:
    training = Training(Automatic())

    training.epoch(1.0)
    training.epoch(
        1.0, replace(TOO_LARGE, closed=3), alert("GS505", "clip-censoring", severity=Severity.INFO)
    )

    assert training.events == []


def test_what_no_remedy_treats_is_left_alone() -> None:
    training = Training(Automatic())

    training.epoch(1.0, alert("GS401", "non-finite"))

    assert training.events == []


# --- The learning rate ------------------------------------------------------------------------


def test_a_lower_rate_makes_smaller_updates_and_leaves_the_schedulers_rate() -> None:
    training = Training(Automatic(("learning-rate",)))
    before = training.update()

    training.epoch(1.0, TOO_LARGE)

    assert training.told == [("remedy", "learning-rate", "applied")]
    factor = training.events[0][2]["factor"]
    assert factor < 1
    after = training.update()
    assert after.norm() < 2 * factor * before.norm()
    assert training.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 0.5**at),
    ],
    ids=["goes on from the last rate", "starts from the first rate"],
)
def test_a_scheduler_works_on_beside_the_lower_rate(schedule: Callable[..., Any]) -> None:
    training = Training(Automatic(("learning-rate",)))
    training.epoch(1.0, TOO_LARGE)
    factor = training.events[0][2]["factor"]
    scheduler = schedule(training.optimizer)
    used = []
    training.optimizer.register_step_pre_hook(
        lambda *_: used.append(training.optimizer.param_groups[0]["lr"])
    )

    for _ in range(3):
        training.backward()
        training.optimizer.step()
        scheduler.step()

    assert used == pytest.approx([0.1 * factor, 0.05 * factor, 0.025 * factor])
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.0125)


def test_a_rate_that_does_not_help_is_undone_and_not_tried_again() -> None:
    training = Training(Automatic(("learning-rate",)))

    training.epoch(1.0, TOO_LARGE)
    training.epoch(1.2, TOO_LARGE)

    assert training.told == [
        ("remedy", "learning-rate", "applied"),
        ("undone", "learning-rate", ""),
    ]
    assert training.events[1][2]["before"] == 1.0
    assert training.events[1][2]["after"] == 1.2
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks
    training.epoch(1.2, TOO_LARGE)
    training.epoch(1.2, TOO_LARGE)
    assert len(training.events) == 2


def test_a_loss_that_is_no_number_is_worse() -> None:
    training = Training(Automatic(("learning-rate",), window=3))

    training.epoch(1.0, TOO_LARGE)
    training.epoch(math.nan, TOO_LARGE)

    assert [kind for _, kind, _ in training.events] == ["remedy", "undone"]


def test_a_loss_within_what_it_rose_before_is_not_worse() -> None:
    training = Training(Automatic(("learning-rate",)))

    for loss in (1.0, 1.3, 1.1):
        training.epoch(loss)
    training.epoch(1.0, TOO_LARGE)
    training.epoch(1.2, TOO_LARGE)

    assert training.told[-1] == ("remedy", "learning-rate", "kept")


def test_a_rate_that_helps_stays_and_is_lowered_again_only_after_a_rest() -> None:
    training = Training(Automatic(("learning-rate",)))

    for loss in (1.0, 0.9, 0.9, 0.9):
        training.epoch(loss, TOO_LARGE)

    assert [(step, data["state"]) for step, _, data in training.events] == [
        (STEPS, "applied"),
        (2 * STEPS, "kept"),
        (4 * STEPS, "applied"),
    ]


def test_an_update_that_raises_does_not_lower_the_rate_twice() -> None:
    training = Training(Automatic(("learning-rate",)))
    training.epoch(1.0, TOO_LARGE)

    def raising() -> float:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        training.optimizer.step(raising)
    training.backward()
    training.optimizer.step()

    assert training.optimizer.param_groups[0]["lr"] == 0.1


# --- Clipping ---------------------------------------------------------------------------------


def test_gradients_are_clipped_until_it_is_over() -> None:
    training = Training(Automatic(("gradient-clipping",)))
    training.epoch(1.0, TOO_LARGE)
    assert training.told == [("remedy", "gradient-clipping", "applied")]
    limit = training.events[0][2]["limit"]

    for parameter in training.model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    training.optimizer.step()
    total = math.hypot(
        *(float(p.grad.norm()) for p in training.model.parameters() if p.grad is not None)
    )
    assert total == pytest.approx(limit, rel=1e-3)

    training.automatic.close()
    assert not training.optimizer._optimizer_step_pre_hooks


def test_only_the_optimizer_of_the_faulty_parameters_is_touched() -> None:
    training = Training(Automatic(("gradient-clipping",)))
    first = torch.optim.SGD(training.model[0].parameters(), lr=0.1)
    rest = torch.optim.SGD(training.model[2:].parameters(), lr=0.1)
    training.automatic.attach(training.model, [first, rest], lambda *_: None, training.profile)

    training.epoch(1.0, SPIKE)

    assert first._optimizer_step_pre_hooks
    assert not rest._optimizer_step_pre_hooks


# --- Artificial derivatives -------------------------------------------------------------------


def test_an_artificial_derivative_is_annealed_and_taken_off() -> None:
    training = Training(Automatic(("artificial-derivative",), anneal=2), nn.Tanh)
    plain = [type(module) for module in training.model.modules()]
    outputs = training.model(training.inputs)
    true = training.gradient()
    keys = list(training.model.state_dict())

    training.automatic.step()
    training.automatic.epoch(1, 1.0, [SATURATED])

    assert training.told == [("remedy", "artificial-derivative", "applied")]
    assert torch.equal(training.model(training.inputs), outputs)
    assert list(training.model.state_dict()) == keys
    assert not torch.equal(training.gradient(), true)
    training.epoch(0.9, SATURATED)
    training.epoch(0.9, SATURATED)
    assert [state for _, _, state in training.told] == ["applied", "kept", "annealed"]
    assert [type(module) for module in training.model.modules()] == plain


def test_an_artificial_derivative_that_makes_it_worse_is_taken_off() -> None:
    training = Training(Automatic(("artificial-derivative",)), nn.Tanh)
    plain = [type(module) for module in training.model.modules()]
    training.epoch(1.0, SATURATED)
    assert [type(module) for module in training.model.modules()] != plain

    training.epoch(2.0, SATURATED)

    assert training.told[-1] == ("undone", "artificial-derivative", "")
    assert [type(module) for module in training.model.modules()] == plain


def test_the_conversion_rule_switches_between_the_derivatives() -> None:
    training = Training(Automatic(("conversion",)), nn.Tanh)
    training.epoch(1.0, SATURATED)
    training.epoch(1.0, SATURATED)
    artificial = training.gradient()

    training.epoch(1.2, SATURATED)
    true = training.gradient()

    assert [state for _, _, state in training.told] == ["applied", "kept", "switched"]
    assert training.events[-1][2]["artificial"] is False
    assert not torch.equal(artificial, true)
    training.automatic.close()
    assert torch.equal(training.gradient(), true)


def test_one_remedy_at_a_time_in_the_order_given() -> None:
    training = Training(Automatic(("gradient-clipping", "learning-rate")))

    training.epoch(1.0, TOO_LARGE)
    training.epoch(2.0, TOO_LARGE)
    training.epoch(2.0, TOO_LARGE)

    assert training.told == [
        ("remedy", "gradient-clipping", "applied"),
        ("undone", "gradient-clipping", ""),
        ("remedy", "learning-rate", "applied"),
    ]


def test_a_cause_is_treated_before_what_it_explains() -> None:
    training = Training(Automatic(), nn.Tanh)
    explained = replace(SATURATED, cause="GS503", step=0)

    training.epoch(1.0, explained, TOO_LARGE)

    assert training.events[0][2]["finding"] == "GS503"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"remedies": ("learningrate",)}, "no automatic remedy 'learningrate'"),
        ({"window": 0}, "window is a whole number"),
        ({"anneal": 1.5}, "anneal is a whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Automatic(**arguments)


def test_a_remedy_that_does_not_fit_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(Automatic(("artificial-derivative",)), nn.Tanh)

    def proposed(*_: Any) -> Any:
        raise UsageError("there is no such site")

    monkeypatch.setattr("gradscope.monitor.automatic.apply", proposed)
    training.epoch(1.0, SATURATED)

    assert [(kind, data) for _, kind, data in training.events] == [
        ("note", {"text": "artificial-derivative was not applied: there is no such site"})
    ]
