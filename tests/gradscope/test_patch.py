"""Patches: saved plans carried out again, plans edited by hand, and undoing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.errors import PlanError
from gradscope.patch import Patch, apply
from gradscope.records import Change, Plan, Prescription
from gradscope.remedies import Training
from gradscope.reports import read_plan, render_plan
from gradscope.rules.subjects import perceptron


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def entry(remedy: str, *sites: str, **parameters: Any) -> Prescription:
    return Prescription(
        remedy, registry.remedy(remedy).changes, sites, parameters, "GS101", "a test"
    )


DERIVATIVE = entry(
    "artificial-derivative", "1", "3", derivative="relu-logistic", k=3.5, selective=False
)
NORM = entry("norm-insertion", "1", "3", layers="BatchNorm1d(16)")
LAYER_NORM = entry("norm-insertion", "1", "3", layers="LayerNorm(16), LayerNorm(16)")
SWAP = entry("activation-swap", "1", "3", activation="gelu")
HE = entry("re-initialise", "0", "2", "4", scheme="he")
XAVIER = entry("re-initialise", "0", "2", "4", scheme="xavier")
ORTHOGONAL = entry("re-initialise", "0", "2", "4", scheme="orthogonal")
ADAM = entry("optimizer-swap", optimizer="adam", lr=1e-3)

PLANS = {
    "nothing": Plan(),
    "artificial derivative": Plan((DERIVATIVE,)),
    "batch norm": Plan((NORM,), seed=3),
    "layer norm": Plan((LAYER_NORM,)),
    "another activation": Plan((SWAP,)),
    "He": Plan((HE,), seed=11),
    "Xavier": Plan((XAVIER,), seed=12),
    "orthogonal": Plan((ORTHOGONAL,), seed=13),
    "optimizer": Plan((ADAM,)),
    "several": Plan((ORTHOGONAL, SWAP, ADAM), ((NORM,),), seed=14),
    "norm and weights": Plan((NORM, HE), seed=15),
}


def fresh(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return perceptron(activation, layers=2, width=16, features=8, classes=4)


def inputs() -> Tensor:
    return torch.randn(12, 8, generator=torch.Generator().manual_seed(2))


def outputs(model: nn.Module) -> tuple[Tensor, Tensor]:
    """In train and in eval mode."""
    return model.train()(inputs()).detach(), model.eval()(inputs()).detach()


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


# --- A saved plan -----------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_saved_plan_does_the_same_to_a_fresh_model(plan: Plan) -> None:
    first, second = fresh(), fresh()
    apply(first, plan)
    saved = read_plan(render_plan(plan), "plan.json")
    assert saved == plan
    torch.manual_seed(99)  # what random numbers the caller is at must not matter
    apply(second, saved)
    assert same(first, second)
    assert all(map(torch.equal, outputs(first), outputs(second)))
    assert repr(first) == repr(second)


def test_another_seed_draws_other_weights() -> None:
    first, second = fresh(), fresh()
    apply(first, Plan((HE,), seed=1))
    apply(second, Plan((HE,), seed=2))
    assert not torch.equal(first[0].weight, second[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_applying_leaves_the_random_numbers_and_the_modes_alone(plan: Plan) -> None:
    model = fresh().eval()
    model[2].train()
    state = torch.get_rng_state()
    with apply(model, plan):
        assert torch.equal(torch.get_rng_state(), state)
        assert [model.training, model[0].training, model[2].training] == [False, False, True]
    assert torch.equal(torch.get_rng_state(), state)


def test_he_weights_have_hes_variance() -> None:
    model = perceptron(nn.ReLU, layers=1, width=512, features=256)
    apply(model, Plan((entry("re-initialise", "0", scheme="he"),)))
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    assert weight.var().item() == pytest.approx(2 / 256, rel=0.02)
    assert torch.equal(model[0].bias, torch.zeros(512))  # type: ignore[arg-type]


# --- Undoing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_leaving_the_block_undoes_also_when_it_raises(plan: Plan) -> None:
    model, untouched = fresh(), fresh()
    with pytest.raises(ZeroDivisionError), apply(model, plan):
        raise ZeroDivisionError
    assert same(model, untouched)
    assert repr(model) == repr(untouched)


def test_undoing_twice_is_undoing_once() -> None:
    model = fresh()
    patch = apply(model, Plan((DERIVATIVE, HE)))
    patch.undo()
    patch.undo()
    assert same(model, fresh())
    assert isinstance(patch, Patch)
    assert patch.model is model


def test_nested_patches_come_off_in_turn() -> None:
    model = fresh()
    with apply(model, Plan((SWAP,))):
        swapped = repr(model)
        with apply(model, Plan((NORM,))):
            assert repr(model) != swapped
        assert repr(model) == swapped
    assert repr(model) == repr(fresh())


def test_a_float64_model_stays_float64() -> None:
    model = fresh().double()
    apply(model, Plan((NORM, HE)))
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    assert model(inputs().double()).dtype == torch.float64


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    before = model[0].weight.clone()  # type: ignore[operator]
    with apply(model, Plan((entry("re-initialise", "0", "2", scheme="he"),))):
        assert model[2].weight is model[0].weight
        assert not torch.equal(model[0].weight, before)  # type: ignore[arg-type]
    assert torch.equal(model[0].weight, before)  # type: ignore[arg-type]


def test_parametrised_weights_are_drawn_or_refused_never_silently_kept() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2))
    before = model[0].weight.clone()  # type: ignore[operator]
    try:
        apply(model, Plan((entry("re-initialise", "0", scheme="he"),)))
    except PlanError:
        return
    assert not torch.equal(model[0].weight, before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        entry("norm-insertion", "activation", layers="LayerNorm(32)"),
        entry("activation-swap", "activation", activation="tanh"),
    ],
    ids=lambda change: change.remedy,
)
def test_an_encoder_layer_evaluates_what_it_trains(change: Prescription) -> None:
    """Its fused inference path asks once, when it is built, whether the activation is a ReLU."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, activation=nn.ReLU(), batch_first=True
    ).eval()
    x = torch.randn(3, 5, 16)
    try:
        apply(model, Plan((change,)))
    except PlanError:
        return
    with torch.no_grad():
        fused = model(x)
    torch.testing.assert_close(fused, model(x).detach())


# --- Plans edited by hand ---------------------------------------------------------------------


def edited(plan: Plan, edit: Callable[[dict[str, Any]], None]) -> Plan:
    raw = json.loads(render_plan(plan))
    edit(raw["plan"])
    return read_plan(json.dumps(raw), "plan.json")


def test_a_prescription_taken_out_is_not_carried_out() -> None:
    plan = edited(Plan((SWAP, HE), seed=5), lambda raw: raw["prescriptions"].pop(1))
    model = fresh()
    apply(model, plan)
    assert isinstance(model[1], nn.GELU)
    assert torch.equal(model[0].weight, fresh()[0].weight)  # type: ignore[arg-type]


def test_a_changed_parameter_counts() -> None:
    def steeper(raw: dict[str, Any]) -> None:
        raw["prescriptions"][0]["parameters"]["k"] = 1.0
        raw["prescriptions"][0]["sites"] = ["3"]

    model = fresh()
    patch = apply(model, edited(Plan((DERIVATIVE,)), steeper))
    assert type(model[1]) is nn.ReLU
    [setting] = patch.settings
    assert setting.derivative.k == 1.0  # type: ignore[attr-defined]


def change_parameter(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["prescriptions"][0]["parameters"].update({name: value})


def change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["prescriptions"][0].update({name: value})


WRONG: dict[str, tuple[Plan, Callable[[dict[str, Any]], None], str]] = {
    "unknown remedy": (Plan((HE,)), change("remedy", "magic"), "'magic'"),
    "unknown parameter": (Plan((DERIVATIVE,)), change_parameter("steepness", 2.0), "'steepness'"),
    "beta for one without": (
        Plan((DERIVATIVE,)),
        lambda raw: raw["prescriptions"][0].update(
            parameters={"derivative": "relu-logistic", "beta": 1.0}
        ),
        "'beta'",
    ),
    "unknown derivative": (Plan((DERIVATIVE,)), change_parameter("derivative", "x"), "'x'"),
    "no derivative": (Plan((DERIVATIVE,)), change("parameters", {}), "artificial derivative"),
    "negative k": (Plan((DERIVATIVE,)), change_parameter("k", -2.0), "-2"),
    "k in words": (Plan((DERIVATIVE,)), change_parameter("k", "steep"), "steep"),
    "wrong site": (Plan((HE,)), change("sites", ["0", "layer9"]), "layer9"),
    "a site of another kind": (Plan((DERIVATIVE,)), change("sites", ["0"]), "Linear"),
    "a site without weights": (Plan((HE,)), change("sites", ["1"]), "ReLU"),
    "the model itself": (Plan((SWAP,)), change("sites", [""]), "itself"),
    "unknown scheme": (Plan((HE,)), change_parameter("scheme", "lucky"), "'lucky'"),
    "unknown activation": (Plan((SWAP,)), change_parameter("activation", "zelu"), "'zelu'"),
    "a layer that is a place": (Plan((SWAP,)), change("sites", ["0"]), "Linear"),
    "no layers": (Plan((NORM,)), change_parameter("layers", ""), "layers ''"),
    "code for layers": (Plan((NORM,)), change_parameter("layers", "exec('x')"), "exec"),
    "unknown layer": (Plan((NORM,)), change_parameter("layers", "Linear(16)"), "Linear"),
    "too many layers": (
        Plan((NORM,)),
        change_parameter("layers", "LayerNorm(16), LayerNorm(16), LayerNorm(16)"),
        "3 layers for 2 sites",
    ),
    "groups that do not divide": (
        Plan((NORM,)),
        change_parameter("layers", "GroupNorm(3, 16)"),
        "GroupNorm",
    ),
    "a layer without its size": (
        Plan((NORM,)),
        change_parameter("layers", "GroupNorm(1)"),
        "GroupNorm",
    ),
    "a size that is an eps": (
        Plan((NORM,)),
        change_parameter("layers", "BatchNorm1d(16, 5)"),
        "BatchNorm1d",
    ),
    "unknown optimizer": (Plan((ADAM,)), change_parameter("optimizer", "adamw9"), "adamw9"),
    "a learning rate in words": (Plan((ADAM,)), change_parameter("lr", "fast"), "fast"),
    "a negative learning rate": (Plan((ADAM,)), change_parameter("lr", -0.1), r"-0\.1"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_changed(which: str) -> None:
    plan, edit, named = WRONG[which]
    model = fresh()
    with pytest.raises(PlanError, match=named):
        apply(model, edited(plan, edit))
    assert same(model, fresh())
    assert repr(model) == repr(fresh())


def test_a_key_that_does_not_exist_is_named() -> None:
    with pytest.raises(PlanError, match="sits"):
        edited(Plan((HE,)), change("sits", ["0"]))
    with pytest.raises(PlanError, match="changes"):
        edited(Plan((HE,)), change("changes", ["everything"]))


def test_a_plan_cannot_call_itself_safe() -> None:
    """What a remedy changes is the remedy's to say, not the file's."""
    disguised = Plan((replace(HE, changes=(Change.BACKWARD,)),))
    try:
        model = fresh()
        patch = apply(model, disguised)
    except PlanError:
        return
    assert not all(prescription.safe for prescription in patch.plan.prescriptions)


def test_a_layer_of_another_size_is_refused_before_it_is_used() -> None:
    """Sizes can be told from the layer before the site; here they are caught by the forward."""
    model = fresh()
    apply(model, Plan((entry("norm-insertion", "1", layers="BatchNorm1d(15)"),)))
    with pytest.raises(RuntimeError):
        model(inputs())


def test_training_of_a_patch_uses_the_prescribed_optimizer() -> None:
    model = fresh()
    patch = apply(model, Plan((entry("optimizer-swap", optimizer="adam", lr=0.25),)))
    training = patch.training(Training(lambda entries: torch.optim.SGD(entries, lr=1.0)))
    optimizer = training.build_optimizer(model.parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_prescription_without_sites_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Prescription 1 \(re-initialise\) names no site"):
        apply(perceptron(nn.ReLU, layers=2), Plan((replace(HE, sites=()),)))


def test_a_training_that_goes_on_keeps_what_its_optimizer_knows_of_what_stays() -> None:
    model = perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3)

    def build(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    old = build(model.parameters())
    model(torch.randn(4, 8)).sum().backward()
    old.step()
    patch = apply(model, Plan((replace(HE, sites=("2",)), entry("learning-rate", factor=0.5))))
    new = patch.build_optimizer(model.parameters(), build, old)
    assert new.param_groups[0]["lr"] == 0.005
    drawn = {id(value) for value in model[2].parameters()}
    for value in model.parameters():
        if id(value) in drawn:
            assert value not in new.state
        else:
            assert torch.equal(new.state[value]["exp_avg_sq"], old.state[value]["exp_avg_sq"])


def test_only_the_optimizer_built_last_is_changed_during_training() -> None:
    model = perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3)
    patch = apply(model, Plan((entry("warm-up", steps=10),)))

    def build(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1.0)

    first, second = (patch.build_optimizer(model.parameters(), build) for _ in range(2))

    def moved(optimizer: torch.optim.Optimizer) -> float:
        weight = model[0].weight
        weight.grad, before = torch.ones_like(weight), weight.detach().clone()
        optimizer.step()
        return float((before - weight.detach()).mean())

    assert moved(first) == pytest.approx(1.0, rel=1e-3)
    assert moved(second) == pytest.approx(0.1, rel=1e-3)
    patch.undo()
    assert moved(second) == pytest.approx(1.0, rel=1e-3)
