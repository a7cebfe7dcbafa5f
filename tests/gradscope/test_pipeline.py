"""The whole way on odd models and odd data: a report or one clear error, and no trace."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope
from gradscope import registry
from gradscope.errors import GradscopeError, ModelError, SubjectError, UsageError
from gradscope.inputs import on_random_inputs
from gradscope.pipeline import repair, scan
from gradscope.records import SCHEMA_VERSION, Report, Source, Status
from gradscope.reports import read_json, render_json
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject, step_from_loss


def classified(*shape: int, dtype: torch.dtype = torch.float32, count: int = 10) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(*shape, generator=generator).to(dtype),
            torch.randint(0, 10, shape[:1], generator=generator),
        )
        for _ in range(count)
    ]


def tokens() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 20, (16, 6), generator=generator) for _ in range(10)]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])  # type: ignore[no-any-return]


class Language(nn.Module):
    """Tokens in, tokens out, with the embedding as output weights where they are tied."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 20, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x)))  # type: ignore[no-any-return]


class Keyed(nn.Module):
    """Takes its batch by name and returns its loss in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, features: Tensor, labels: Tensor) -> dict[str, Any]:
        return {"loss": cross_entropy(self.body(features), (features, labels)), "count": 3}


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def next_token(output: Tensor, batch: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), batch.flatten())


def relu_net() -> nn.Sequential:
    return perceptron(nn.ReLU, layers=2)


def half_frozen() -> nn.Module:
    model = relu_net()
    model[0].requires_grad_(False)
    return model


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip


def loader() -> Iterable[Any]:
    inputs, targets = classified(640, 32, count=1)[0]
    return DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True)


ODD: dict[str, tuple[Callable[[], nn.Module], Callable[[], Iterable[Any]], Callable[..., Any]]] = {
    "no activation": (
        lambda: nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 10)),
        lambda: classified(64, 32),
        cross_entropy,
    ),
    "one layer": (lambda: nn.Linear(32, 10), lambda: classified(64, 32), cross_entropy),
    "convolutions": (convolutions, lambda: classified(32, 3, 10, 10), cross_entropy),
    "GRU": (Recurrent, lambda: classified(32, 5, 8), cross_entropy),
    "tokens": (lambda: Language(False), tokens, next_token),
    "tied weights": (lambda: Language(True), tokens, next_token),
    "batch of one": (relu_net, lambda: classified(1, 32), cross_entropy),
    "frozen trunk": (half_frozen, lambda: classified(64, 32), cross_entropy),
    "eval mode": (lambda: convolutions().eval(), lambda: classified(32, 3, 10, 10), cross_entropy),
    "in-place ReLU": (
        lambda: perceptron(lambda: nn.ReLU(inplace=True), layers=3),
        lambda: classified(64, 32),
        cross_entropy,
    ),
    "float64": (
        lambda: relu_net().double(), lambda: classified(64, 32, dtype=torch.float64), cross_entropy
    ),
    "bfloat16": (
        lambda: relu_net().bfloat16(),
        lambda: classified(64, 32, dtype=torch.bfloat16),
        cross_entropy,
    ),
    "mappings": (
        Keyed,
        lambda: [{"features": x, "labels": y} for x, y in classified(64, 8)],
        lambda output, batch: output["loss"],
    ),
    "generator": (relu_net, lambda: (batch for batch in classified(64, 32)), cross_entropy),
    "DataLoader": (relu_net, loader, cross_entropy),
    "lists of tensors": (
        relu_net, lambda: [list(pair) for pair in classified(64, 32)], cross_entropy
    ),
    "one batch": (relu_net, lambda: classified(64, 32, count=1), cross_entropy),
    "sparse embedding": (
        lambda: nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Flatten(), nn.Linear(48, 10)),
        lambda: [(batch, batch[:, 0] % 10) for batch in tokens()],
        cross_entropy,
    ),
}  # fmt: skip


def odd(name: str) -> Subject:
    build, data, loss = ODD[name]
    return Subject(
        name, build, data, step_from_loss(loss), lambda entries: torch.optim.SGD(entries, lr=0.05)
    )


@pytest.mark.parametrize("name", ODD)
def test_odd_but_healthy_models_are_scanned_without_a_finding(name: str) -> None:
    state = torch.get_rng_state()
    report = scan(odd(name))
    assert [finding.message for finding in report.findings] == []
    assert torch.equal(torch.get_rng_state(), state)
    assert report.profile is not None
    assert report.profile.steps == 8
    assert report.target.name == name
    assert report.target.parameters == sum(
        value.numel() for value in odd(name).build_model().parameters()
    )
    assert repr(read_json(render_json(report), "report.json")) == repr(report)


@pytest.mark.parametrize("name", ODD)
def test_scanning_leaves_a_live_model_alone(name: str) -> None:
    build, data, loss = ODD[name]
    model = build()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradscope.profile(model, data(), loss, optimizer=odd(name).build_optimizer)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_said_to_be_skipped_is_true() -> None:
    """A single linear layer on batches of 64 varied samples."""
    reasons = " ".join(skip.reason for skip in scan(odd("one layer")).skipped)
    assert "one sample" not in reasons
    assert "inputs do not vary" not in reasons


def test_a_loss_of_nan_is_a_finding_and_no_crash() -> None:
    def loss(output: Tensor, batch: Any) -> Tensor:
        return cross_entropy(output, batch) * float("nan")

    subject = Subject("nan", relu_net, lambda: classified(64, 32), step_from_loss(loss))
    report = repair(subject, unsafe=True, seeds=5).report
    assert [finding.code for finding in report.findings] == ["GS401"]
    assert report.verdict is not None
    assert report.verdict.status is Status.NO_EFFECT


# --- Faults of what the user gives: one GradscopeError each ------------------------------------


def raising(*_: Any) -> Any:
    raise FileNotFoundError("data.bin is not there")


def broken_in_eval_mode(model: nn.Module, batch: Any) -> Tensor:
    if not model.training:
        raise ValueError("only in train mode")
    return cross_entropy(model(batch[0]), batch)


def sick() -> nn.Module:
    return perceptron(nn.Sigmoid, layers=8)


def plain(**changes: Any) -> Subject:
    settings: dict[str, Any] = {
        "build_model": sick,
        "build_data": lambda: classified(64, 32),
        "step": step_from_loss(cross_entropy),
        "build_optimizer": lambda entries: torch.optim.SGD(entries, lr=0.05),
    }
    return Subject("a test", **(settings | changes))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "build_data raises": ({"build_data": raising}, "data.bin is not there"),
    "build_optimizer raises": ({"build_optimizer": raising}, "data.bin is not there"),
    "the optimizer needs a closure": (
        {"build_optimizer": lambda entries: torch.optim.LBFGS(entries)},
        "LBFGS",
    ),
    "the optimizer cannot do it": (
        {"build_optimizer": lambda entries: torch.optim.SparseAdam(list(entries))},
        "SparseAdam",
    ),
    "lazy layers": (
        {"build_model": lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(10))},
        "lazy layers",
    ),
    "no parameters": ({"build_model": nn.ReLU}, "no parameters"),
    "a wrong shape": ({"build_data": lambda: classified(64, 31)}, "64x31"),
    "no batch": ({"build_data": list}, "no batch"),
    "an empty batch": ({"build_data": lambda: classified(0, 32)}, "no sample"),
    "no scalar": ({"step": lambda model, batch: model(batch[0])}, "not a scalar"),
    "no tensor": ({"step": lambda model, batch: 0.5}, "not a tensor"),
    "no number": ({"step": lambda model, batch: torch.tensor(1)}, "int64"),
}


@pytest.mark.parametrize("which", FAULTS)
def test_what_the_user_gives_and_fails_is_one_clear_error(which: str) -> None:
    changes, named = FAULTS[which]
    state = torch.get_rng_state()
    with pytest.raises(GradscopeError, match=named) as caught:
        scan(plain(**changes))
    assert caught.value.exit_status == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_that_fails_in_eval_mode_only_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match="only in train mode"):
        repair(plain(step=broken_in_eval_mode), unsafe=True, seeds=5, budget=0.1)


def test_no_data_is_made_up_for_a_scan_and_verifies_no_repair() -> None:
    report = scan(plain(build_data=None))
    assert report.profile is not None
    assert report.profile.source is Source.SYNTHETIC
    assert "inputs of shape 32x32 were made up" in report.skipped[0].reason
    result = repair(plain(build_data=None), unsafe=True, seeds=5)
    assert result.report.verdict is not None
    assert result.report.verdict.status is Status.UNVERIFIED
    with pytest.raises(SubjectError, match="comes without data; give --data"):
        plain(build_data=None).data()


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"seed": 2**70}, {"select": ["GS9"]}, {"ignore": ["x"]}]
)
def test_options_out_of_range_are_usage_errors(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        scan(plain(), **options)


def test_a_budget_without_end_is_refused() -> None:
    with pytest.raises(UsageError):
        repair(plain(), unsafe=True, seeds=5, budget=float("inf"))


# --- Random inputs ------------------------------------------------------------------------------


def synthetic(build: Callable[[], nn.Module], *shape: int) -> Report:
    return scan(on_random_inputs(plain(build_model=build), shape, has_loss=False))


def test_evidence_from_random_inputs_says_so() -> None:
    report = synthetic(sick, 32)
    assert report.profile is not None
    assert report.profile.source is Source.SYNTHETIC
    assert report.findings
    for finding in report.findings:
        assert {measure.source for measure in finding.evidence.values()} == {Source.SYNTHETIC}


def test_a_model_with_one_number_for_each_sample_works_on_random_inputs() -> None:
    report = synthetic(lambda: nn.Sequential(*relu_net(), nn.Linear(10, 1), nn.Flatten(0)), 32)
    assert report.findings == ()


def test_a_float64_model_gets_float64_inputs() -> None:
    assert synthetic(lambda: relu_net().double(), 32).findings == ()


def test_a_repair_on_random_inputs_is_unverified() -> None:
    subject = on_random_inputs(plain(), (32,), has_loss=False)
    result = repair(subject, unsafe=True, seeds=5)
    assert result.report.verdict is not None
    assert result.report.verdict.status is Status.UNVERIFIED
    assert result.model is None


# --- Reports ------------------------------------------------------------------------------------


def test_no_remedy_leaves_the_refusals_in_the_report() -> None:
    report = repair(plain(), only=("artificial-derivative", "norm-insertion")).report
    assert report.verdict is not None
    assert report.verdict.status is Status.NO_EFFECT
    assert {refusal.remedy for refusal in report.refusals} == {
        "artificial-derivative",
        "norm-insertion",
    }


def test_repairing_a_live_model_leaves_it_alone() -> None:
    model = sick().eval()
    before = copy.deepcopy(model.state_dict())
    subject = Subject.of(model, classified(64, 32), cross_entropy)
    result = repair(subject, unsafe=True, only=("norm-insertion",), seeds=5, budget=0.1)
    report = result.report
    assert (report.schema_version, report.target.kind) == (SCHEMA_VERSION, "live model")
    assert report.verdict is not None
    assert any("SGD(lr=0.01" in skip.reason for skip in report.skipped)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert type(model[1]) is nn.Sigmoid  # type: ignore[index]


@pytest.mark.parametrize("endless", [False, True])
def test_a_live_model_with_a_generator_is_refused(endless: bool) -> None:
    """Each training needs the same batches again, and a generator gives each batch once."""
    batches = itertools.cycle(classified(64, 32)) if endless else iter(classified(64, 32, count=60))
    with pytest.raises(GradscopeError, match=r"generator|iterat"):
        repair(Subject.of(sick(), batches, cross_entropy), unsafe=True, seeds=5, budget=0.1)


def test_a_scan_repeats_itself() -> None:
    subject = random_subject("again", sick)
    assert repr(scan(subject, seed=4)) == repr(scan(subject, seed=4))
    assert repr(scan(subject, seed=4).profile) != repr(scan(subject, seed=5).profile)


def test_fix_returns_what_repair_reports() -> None:
    healthy = registry.rule("GS101").good()
    report = gradscope.fix(healthy)
    assert repr(report) == repr(repair(healthy).report)
