"""Learning rate, warm-up, clipping, stages, and what an optimizer keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.errors import PlanError
from gradscope.patch import Patch, apply
from gradscope.records import Plan, Prescription
from gradscope.remedies import Training
from gradscope.remedies.gradient_clipping import clip_adaptively
from gradscope.remedies.layerwise_training import stages
from gradscope.remedies.moments import carry_over, forget
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry, inputs, of_rule, profiled, proposed, refused

SGD = partial(torch.optim.SGD, lr=0.5)


def training(model: nn.Module, *prescriptions: Prescription) -> tuple[Patch, Optimizer]:
    patch = apply(model, Plan(prescriptions))
    return patch, patch.build_optimizer(model.parameters(), SGD)


def step(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Takes a step; returns the names of the weights that it changed."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs(20, 32)), torch.arange(20) % 10).backward()
    optimizer.step()
    return [
        name.removesuffix(".weight")
        for name, value in model.named_parameters()
        if name.endswith("weight") and not torch.equal(value, before[name])
    ]


def test_the_learning_rate_is_multiplied_in_every_group() -> None:
    model = perceptron(nn.ReLU, layers=1)
    first, *others = model.parameters()
    patch = apply(model, Plan((entry("learning-rate", factor=0.1),)))
    groups = [{"params": [first], "lr": 0.2}, {"params": others}]
    optimizer = patch.build_optimizer(model.parameters(), lambda _: torch.optim.SGD(groups, lr=0.5))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.05])


def test_the_factor_comes_from_the_updates() -> None:
    model = perceptron(nn.ReLU, layers=2)
    small = profiled(model, 20, 32, lr=1e-9)
    factors = [
        float(each.parameters["factor"])
        for each in proposed("learning-rate", "GS301", model, small)
    ]
    assert min(factors) >= 10
    large = profiled(model, 20, 32, lr=100.0)
    factors = [
        float(each.parameters["factor"])
        for each in proposed("learning-rate", "GS301", model, large)
    ]
    assert max(factors) <= 0.5
    usual = profiled(model, 20, 32, lr=0.1)
    assert "as large as usual" in refused("learning-rate", "GS501", model, usual)
    assert "no larger than usual" in refused("learning-rate", "GS201", model, small)


@pytest.mark.parametrize(("code", "down"), [("GS301", True), ("GS503", True), ("GS104", True)])
def test_it_treats_what_rules_find(code: str, down: bool) -> None:
    _, profile, model = of_rule(code)
    for each in proposed("learning-rate", code, model, profile):
        assert (float(each.parameters["factor"]) < 1) is down


def test_a_warm_up_grows_and_leaves_schedules_alone() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    model = nn.Module()
    model.register_parameter("weight", parameter)
    _, optimizer = training(model, entry("warm-up", steps=4))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    moved = []
    for _ in range(6):
        parameter.grad = torch.ones(1)
        before = parameter.item()
        optimizer.step()
        schedule.step()
        moved.append(before - parameter.item())
    expected = [0.5 * 0.9**t * min(1, (t + 1) / 4) for t in range(6)]
    assert moved == pytest.approx(expected, rel=1e-5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.9**6)


def test_a_short_training_gets_a_short_warm_up() -> None:
    model = perceptron(nn.ReLU, layers=1)
    patch = apply(model, Plan((entry("warm-up", steps=100),)))
    changed = patch.training(Training(SGD))
    optimizer = SGD(model.parameters())
    changed.start(model, optimizer, 10)
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    for _ in range(3):
        optimizer.step()
    assert rates == [0.25, 0.5, 0.5]


def norm_of_gradients(model: nn.Module) -> float:
    return math.hypot(
        *(float(each.grad.norm()) for each in model.parameters() if each.grad is not None)
    )


def test_the_norm_is_clipped_before_the_update() -> None:
    torch.manual_seed(0)
    model = perceptron(nn.ReLU, layers=2)
    _, optimizer = training(model, entry("gradient-clipping", method="norm", limit=1e-3))
    step(model, optimizer)
    assert norm_of_gradients(model) == pytest.approx(1e-3, rel=1e-3)
    _, loose = training(model, entry("gradient-clipping", method="norm", limit=1e3))
    step(model, loose)
    assert 1e-3 < norm_of_gradients(model) < 1e3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adaptive_clipping_follows_its_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 4, dtype=dtype))
    bias = nn.Parameter(torch.randn(3, dtype=dtype))
    weight.grad, bias.grad = 5 * torch.randn_like(weight), 1e-4 * torch.randn_like(bias)
    weight.data[1] = 0
    before, kept = weight.grad.clone(), bias.grad.clone()
    clip_adaptively([weight, bias], 0.01)
    for row in range(3):
        largest = 0.01 * max(float(weight[row].detach().norm()), 1e-3)
        factor = min(1.0, largest / float(before[row].norm()))
        torch.testing.assert_close(weight.grad[row], factor * before[row])
    torch.testing.assert_close(bias.grad, kept)


def test_outliers_are_clipped_at_twice_the_usual_norm() -> None:
    model = perceptron(nn.ReLU, layers=2)
    profile = profiled(model, 20, 32)
    usual = sorted(
        math.hypot(*(each.gradient_norm[at] or 0.0 for each in profile.parameters))
        for at in range(profile.steps)
    )
    limit = proposed("gradient-clipping", "GS104", model, profile)[0].parameters["limit"]
    assert 2 * usual[0] * 0.9 < float(limit) < 2 * usual[-1] * 1.1
    assert "decays" in refused("gradient-clipping", "GS602", model, profile)


def test_there_are_the_seven_stages_of_the_slides() -> None:
    assert stages(4) == [
        (1, (0,)),
        (2, (1,)),
        (2, (0, 1)),
        (3, (2,)),
        (3, (0, 1, 2)),
        (4, (3,)),
        (4, (0, 1, 2, 3)),
    ]


def seven_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return perceptron(nn.Tanh, layers=7)


def test_stages_train_and_fix_the_groups_of_the_slides() -> None:
    model = seven_layers()
    (found,) = proposed("layerwise-training", "GS101", model, profiled(model, 20, 32))
    assert found.parameters["groups"] == "4 4 4 2"
    _, optimizer = training(model, entry(found.remedy, *found.sites, groups="4 4 4 2", steps=2))
    groups = [["0", "2"], ["4", "6"], ["8", "10"], ["12"]]
    for present, trained in stages(4):
        for _ in range(2):
            expected = [name for number in trained for name in groups[number]]
            x = signal = inputs(5, 32)
            for layer in list(model)[: 4 * present if present < 4 else 14]:
                signal = layer(signal)
            torch.testing.assert_close(model(x), model[14](signal)), "data pass the others by"
            assert step(model, optimizer) == [*expected, "14"]
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_fit_into_a_short_training_and_can_be_undone() -> None:
    model = seven_layers()
    x = inputs(5, 32)
    whole = model(x)
    (found,) = proposed("layerwise-training", "GS101", model, profiled(model, 20, 32))
    patch = apply(model, Plan((found,)))
    assert torch.equal(model(x), whole)
    optimizer = SGD(model.parameters())
    ends = patch.training(Training(SGD)).start(model, optimizer, 20)
    assert not torch.equal(model(x), whole), "the first stage is a shallow model"
    trained = [step(model, optimizer) for _ in range(13)]
    assert trained[0] == ["0", "2", "14"]
    assert len(trained[-1]) == 8
    assert ends
    patch.undo()
    with apply(model, Plan((found,))) as again:
        again.build_optimizer(model.parameters(), SGD)
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_what_is_no_chain_is_refused() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x) + x)  # type: ignore[no-any-return]

    branch = Branch()
    assert "plain chain" in refused("layerwise-training", "GS101", branch, profiled(branch, 8, 32))
    narrow = nn.Sequential(
        nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)
    )
    assert "too few" in refused("layerwise-training", "GS101", narrow, profiled(narrow, 8, 32))


def test_a_new_optimizer_knows_what_the_old_one_knew_of_parameters_that_stay() -> None:
    model = perceptron(nn.ReLU, layers=1)
    adam: Callable[..., Optimizer] = partial(torch.optim.Adam, lr=1e-3)
    old = adam(model.parameters())
    step(model, old)
    stays, drawn = model.get_parameter("2.weight"), model.get_parameter("0.weight")
    new = adam(model.parameters())
    carry_over(old, new, [drawn])
    assert torch.equal(new.state[stays]["exp_avg"], old.state[stays]["exp_avg"])
    assert new.state[stays]["exp_avg"] is not old.state[stays]["exp_avg"]
    assert drawn not in new.state
    rows = torch.zeros_like(stays, dtype=torch.bool)
    rows[1] = True
    forget(new, stays, rows)
    assert not new.state[stays]["exp_avg"][1].any()
    assert new.state[stays]["exp_avg"][0].any()
    other = SGD(model.parameters())
    carry_over(old, other)
    assert not other.state


def test_undoing_takes_clipping_away() -> None:
    model = perceptron(nn.ReLU, layers=2)
    patch, optimizer = training(model, entry("gradient-clipping", limit=1e-9))
    patch.undo()
    step(model, optimizer)
    assert norm_of_gradients(model) > 1e-3


def test_clipping_and_stages_act_on_what_a_closure_computes() -> None:
    model = seven_layers()
    groups = entry("layerwise-training", "2", "3", "4", "5", groups="2 2", steps=1)
    _, optimizer = training(model, groups, entry("gradient-clipping", limit=1e-3))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}

    def closure() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs(20, 32)), torch.arange(20) % 10)
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    assert norm_of_gradients(model) == pytest.approx(1e-3, rel=1e-3)
    optimizer.step(closure=closure)
    changed = {n for n, v in model.named_parameters() if not torch.equal(v, before[n])}
    assert {"2.weight", "4.weight"} <= changed
    assert model.get_parameter("2.weight").grad is None


@pytest.mark.parametrize(
    "remedy",
    [
        entry("warm-up", steps=2),
        entry("recycle-dormant", "3", steps=2),
        entry("layerwise-training", "2", "3", "4", "5", groups="2 2", steps=1),
    ],
    ids=lambda each: each.remedy,
)
def test_a_hook_of_the_user_outlives_theirs(remedy: Prescription) -> None:
    model = seven_layers()
    patch, optimizer = training(model, remedy)
    called: list[int] = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    for _ in range(4):
        step(model, optimizer)
    assert len(called) == 4
    patch.undo()
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert not optimizer._optimizer_step_pre_hooks


def test_what_cannot_be_prepared_leaves_no_hooks() -> None:
    """The second is prescribed for an activation that the third puts a normalisation before."""
    model = seven_layers()
    patch = apply(
        model,
        Plan(
            (
                entry("layerwise-training", "2", "3", "4", "5", groups="2 2"),
                entry("recycle-dormant", "3"),
                entry("norm-insertion", "3", layers="LayerNorm(32)"),
            )
        ),
    )
    with pytest.raises(PlanError, match="prescribed for '3', a Sequential"):
        patch.build_optimizer(model.parameters(), SGD)
    assert not any(module._forward_hooks for module in model.modules())


def test_data_cannot_pass_by_a_layer_that_changes_shapes() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    plan = Plan((entry("layerwise-training", "0", "1", "2", "3", groups="2 2"),))
    with pytest.raises(PlanError, match="gives back another shape"):
        apply(model, plan)
