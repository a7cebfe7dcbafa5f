"""What every remedy promises: it fits or says why not, and whatever it does can be undone."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope import registry
from gradscope.discovery import summary
from gradscope.errors import PlanError
from gradscope.patch import apply
from gradscope.profile import profile
from gradscope.records import Change, Finding, Plan, Prescription, Profile, Refusal, Severity
from gradscope.remedies import Remedy, Training
from gradscope.reports import read_plan, render_plan
from gradscope.rules.subjects import perceptron

MISPLACED = Prescription("re-initialise", (Change.PARAMETERS,), (), {"scheme": "he"}, "", "")

SECTIONS = [
    "What it does",
    "When it applies",
    "When it must not be applied",
    "Fix safety",
    "References",
]

REMEDIES = [pytest.param(remedy, id=remedy.name) for remedy in registry.remedies().values()]


def deep_sigmoid() -> nn.Module:
    return perceptron(
        nn.Sigmoid, layers=8, initialise=lambda layer: nn.init.normal_(layer.weight, std=0.05)
    )


def dying_relu() -> nn.Module:
    model = perceptron(nn.ReLU, layers=3)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, -0.5)
    return model


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def in_float16() -> nn.Module:
    return perceptron(nn.Tanh, layers=2).half()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "deep-sigmoid": (deep_sigmoid, (16, 32)),
    "dying-relu": (dying_relu, (16, 32)),
    "small-cnn": (small_cnn, (16, 3, 8, 8)),
    "in-float16": (in_float16, (16, 32)),
}


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return MODELS[name][0]()


def batch(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(MODELS[name][1], generator=generator)
    inputs = inputs.half() if name == "in-float16" else inputs
    return inputs, torch.randint(0, 10, (len(inputs),), generator=generator)


def loss(output: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output.float(), pair[1])


@cache
def profile_of(name: str) -> Profile:
    return profile(build(name), [batch(name)], loss, steps=2)


def answers(remedy: Remedy, name: str) -> Iterator[Prescription | Refusal]:
    """What a remedy says to each fault that it treats, with each cause that may explain it."""
    model = build(name)
    for code in remedy.treats:
        for cause in (None, *registry.rule(code).explained_by):
            fault = registry.rule(code)
            finding = Finding(code, fault.name, Severity.ERROR, (), "it is.", {}, cause)
            yield from remedy.propose(finding, profile_of(name), model)


def proposals(remedy: Remedy, name: str) -> list[Prescription]:
    unique: dict[str, Prescription] = {}
    for answer in answers(remedy, name):
        if isinstance(answer, Prescription):
            unique.setdefault(repr((answer.sites, answer.parameters)), answer)
    return list(unique.values())


PRESCRIPTIONS = [
    pytest.param(name, entry, id=f"{name}-{entry.remedy}-{number}")
    for name in MODELS
    for remedy in registry.remedies().values()
    for number, entry in enumerate(proposals(remedy, name))
]


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module, name: str) -> dict[str, Any]:
    """All that a patch could leave behind, without leaving anything itself."""
    seen: dict[str, Any] = {
        "repr": repr(model),
        "modules": [
            (key, type(module), id(module), module.training, sorted(vars(module)))
            for key, module in model.named_modules(remove_duplicate=False)
        ],
        "hooks": [
            [list(value) for key, value in sorted(vars(module).items()) if key.endswith("_hooks")]
            for module in model.modules()
        ],
        "parameters": [
            (key, id(value), value.requires_grad, value.grad is None)
            for key, value in model.named_parameters(remove_duplicate=False)
        ],
        "state": [(key, bits(value)) for key, value in model.state_dict().items()],
    }
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        for training in (True, False):
            torch.manual_seed(5)
            model.train(training)
            output = model(batch(name)[0].clone())
            gradients = torch.autograd.grad(
                loss(output, batch(name)), list(model.parameters()), allow_unused=True
            )
            seen[f"output, training {training}"] = bits(output)
            seen[f"gradients, training {training}"] = [
                None if gradient is None else bits(gradient) for gradient in gradients
            ]
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(state[key])
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return seen


@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_page_has_all_sections_and_none_is_empty(remedy: Remedy) -> None:
    assert summary(remedy)
    text = inspect.cleandoc(type(remedy).__doc__ or "")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert parts[1::2] == SECTIONS
    assert all(text.strip() for text in parts[2::2])
    safety = parts[parts.index("Fix safety") + 1].strip()
    assert safety.startswith("Safe:" if remedy.safe else "Unsafe:")


@pytest.mark.parametrize("remedy", REMEDIES)
def test_safe_is_what_leaves_the_function_alone(remedy: Remedy) -> None:
    assert remedy.changes
    assert remedy.safe is (set(remedy.changes) <= {Change.BACKWARD, Change.TRAINING})


@pytest.mark.parametrize("remedy", REMEDIES)
def test_names_have_their_form_and_faults_exist(remedy: Remedy) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", remedy.name)
    assert remedy.treats
    assert set(remedy.treats) <= set(registry.rules())
    assert all(meaning.strip() for meaning in remedy.parameters.values())


@pytest.mark.parametrize("remedy", REMEDIES)
def test_it_applies_to_one_of_the_models(remedy: Remedy) -> None:
    assert any(proposals(remedy, name) for name in MODELS)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("remedy", REMEDIES)
def test_it_answers_every_fault_and_gives_reasons(remedy: Remedy, name: str) -> None:
    model = build(name)
    for code in remedy.treats:
        finding = Finding(code, registry.rule(code).name, Severity.ERROR, (), "it is.", {})
        said = remedy.propose(finding, profile_of(name), model)
        assert said, f"{remedy.name} neither proposes nor refuses for {code}"
        for answer in said:
            assert answer.remedy == remedy.name
            assert len(answer.reason) > 10


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("remedy", REMEDIES)
def test_proposing_changes_nothing(remedy: Remedy, name: str) -> None:
    model = build(name)
    before = everything(model, name)
    for code in remedy.treats:
        finding = Finding(code, registry.rule(code).name, Severity.ERROR, (), "it is.", {})
        remedy.propose(finding, profile_of(name), model)
    assert everything(model, name) == before


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_proposal_is_complete(name: str, entry: Prescription) -> None:
    remedy = registry.remedy(entry.remedy)
    assert entry.changes == remedy.changes
    assert set(entry.parameters) <= set(remedy.parameters)
    assert entry.finding in remedy.treats
    known = dict(build(name).named_modules())
    assert all(site in known for site in entry.sites)
    assert read_plan(render_plan(Plan((entry,))), "plan.json") == Plan((entry,))


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_undo_restores_every_bit(name: str, entry: Prescription) -> None:
    model = build(name)
    before = everything(model, name)
    state = torch.get_rng_state()
    patch = apply(model, Plan((entry,), seed=7))
    assert torch.equal(torch.get_rng_state(), state)
    patched = everything(model, name)
    patch.undo()
    assert everything(model, name) == before
    if Change.TRAINING not in entry.changes:
        assert patched != before, "it did nothing"


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_undo_restores_every_bit_after_training(name: str, entry: Prescription) -> None:
    """What training changed stays; the structure and the keys are the old ones all the same."""
    model = build(name)
    before = everything(model, name)
    with apply(model, Plan((entry,), seed=7)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        loss(model(batch(name)[0]), batch(name)).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = everything(model, name)
    for what in ("repr", "modules", "hooks", "parameters"):
        assert after[what] == before[what]
    assert [key for key, _ in after["state"]] == [key for key, _ in before["state"]]


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_what_only_changes_the_backward_keeps_outputs_and_state(
    name: str, entry: Prescription
) -> None:
    if not set(entry.changes) <= {Change.BACKWARD, Change.TRAINING}:
        assert not entry.safe
        return
    model = build(name)
    before = everything(model, name)
    with apply(model, Plan((entry,))):
        patched = everything(model, name)
    same = ["state", "parameters", "output, training True", "output, training False"]
    assert [patched[what] == before[what] for what in same] == [True] * len(same)
    if Change.BACKWARD in entry.changes:
        assert patched["gradients, training True"] != before["gradients, training True"]


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_model_without_the_site_is_left_alone(name: str, entry: Prescription) -> None:
    if not entry.sites:
        assert set(entry.changes) == {Change.TRAINING}
        return
    model = build(name)
    before = everything(model, name)
    astray = replace(entry, sites=(*entry.sites[:-1], "nowhere.at_all"))
    with pytest.raises(PlanError, match=r"nowhere\.at_all"):
        apply(model, Plan((astray,)))
    assert everything(model, name) == before


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_wrong_parameter_is_refused_by_name(name: str, entry: Prescription) -> None:
    model = build(name)
    before = everything(model, name)
    for parameter, right in entry.parameters.items():
        numbers = (float("nan"), float("inf"))
        for wrong in ("no such thing", *(() if isinstance(right, str) else numbers)):
            edited = replace(entry, parameters={**entry.parameters, parameter: wrong})
            with pytest.raises(PlanError) as caught:
                apply(model, Plan((edited,)))
            assert "Prescription 1" in str(caught.value)
            assert entry.remedy in str(caught.value)
            assert parameter in str(caught.value)
    assert everything(model, name) == before


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_undo_takes_away_what_training_hangs_on_the_model(name: str, entry: Prescription) -> None:
    model = build(name)
    before = everything(model, name)
    with apply(model, Plan((entry,))) as patch:
        optimizer = patch.build_optimizer(model.parameters(), partial(torch.optim.SGD, lr=0.01))
        loss(model(batch(name)[0]), batch(name)).backward()
        optimizer.step()
        model.zero_grad()
    after = everything(model, name)
    assert [after[what] for what in ("hooks", "repr")] == [
        before[what] for what in ("hooks", "repr")
    ]


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_patched_model_can_be_copied_and_pickled(name: str, entry: Prescription) -> None:
    model = build(name)
    with apply(model, Plan((entry,), seed=7)), torch.no_grad():
        model(batch(name)[0])
        expected = model.eval()(batch(name)[0])
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(again(batch(name)[0]), expected)
            assert list(again.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_plan_that_fails_half_way_leaves_nothing(name: str, entry: Prescription) -> None:
    model = build(name)
    before = everything(model, name)
    wrong = replace(MISPLACED, sites=("nowhere",))
    with pytest.raises(PlanError, match="nowhere"):
        apply(model, Plan((entry, wrong)))
    assert everything(model, name) == before


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_a_site_named_twice_is_changed_once_or_refused(name: str, entry: Prescription) -> None:
    """As a plan edited by hand may have it."""
    model = build(name)
    before = everything(model, name)
    twice = replace(entry, sites=entry.sites[:1] * 2)
    try:
        with apply(model, Plan((twice,))):
            pass
    except PlanError:
        pass
    assert everything(model, name) == before


@pytest.mark.parametrize(("name", "entry"), PRESCRIPTIONS)
def test_what_it_changes_about_training_gives_a_working_optimizer(
    name: str, entry: Prescription
) -> None:
    model = build(name)
    patch = apply(model, Plan((entry,)))
    plain = Training(lambda parameters: torch.optim.SGD(parameters, lr=0.5))
    training = patch.training(plain)
    assert (training == plain) is (Change.TRAINING not in entry.changes)
    optimizer = training.build_optimizer(model.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )
