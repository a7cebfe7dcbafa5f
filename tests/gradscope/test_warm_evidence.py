"""What a checkpoint tells beside a run on made-up inputs, and where it counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.checkpoints import open_checkpoint
from gradscope.checkpoints.cold import cold_profile
from gradscope.errors import SubjectError
from gradscope.huggingface import CannotBuild, load_folder
from gradscope.records import Finding, Report, Source
from gradscope.restoring import restored
from gradscope.subject import Subject
from tests.gradscope.tiny_transformers import BERT, build

DEAD = 29


def build_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    """Real data is all positive and made-up inputs are not: units may be dead on one alone."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(8, 256, 6, generator=generator) + 0.5
    return [(x, x[:, :3].argmax(dim=1)) for x in inputs]


def loss(output: Any, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most units are never positive on the real data."""
    torch.manual_seed(0)
    model = build_model()
    with torch.no_grad():
        weight, bias = list(model.parameters())[:2]
        weight[:DEAD].abs_().neg_()
        bias[:DEAD] = -0.1
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(4):
        for batch in batches():
            optimizer.zero_grad()
            loss(model(batch[0]), batch).backward()
            optimizer.step()
    saved = tmp_path_factory.mktemp("saved") / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    return saved


def warm(path: Path, **changes: Any) -> Report:
    subject = Subject.of(build_model(), None, loss)
    subject = restored(subject, open_checkpoint(path), "build_model")
    return gradscope.scan(replace(subject, **changes), ignore=["GS3"])


def found(report: Report) -> dict[str, Finding]:
    return {finding.code: finding for finding in report.findings}


def test_on_made_up_inputs_the_optimizer_tells_of_the_real_ones(path: Path) -> None:
    report = warm(path)
    profile = report.profile
    assert profile is not None
    assert (profile.source, profile.measured) == (Source.SYNTHETIC, True)
    assert profile.stored is not None
    assert len(profile.sites) == 3
    assert profile.site("1").dead == 0
    finding = found(report)["GS201"]
    assert finding.sites == ("0.weight",)
    assert {measure.source for measure in finding.evidence.values()} == {Source.OPTIMIZER_STATE}


def test_on_real_data_what_is_measured_is_all(path: Path) -> None:
    report = warm(path, build_data=batches)
    assert report.profile is not None
    assert (report.profile.source, report.profile.stored) == (Source.MEASURED, None)
    finding = found(report)["GS201"]
    assert finding.sites == ("1",)
    assert {measure.source for measure in finding.evidence.values()} == {Source.MEASURED}


def test_what_is_measured_wins(path: Path) -> None:
    """Of a rule that finds the fault in both, what was measured is told."""
    measured = warm(path, build_data=batches).profile
    assert measured is not None
    cold = cold_profile(open_checkpoint(path))
    both = gradscope.diagnose(replace(measured, stored=cold.stored), select=["GS201"])
    assert [finding.sites for finding in both] == [("1",)]
    alone = gradscope.diagnose(cold, select=["GS201"])
    assert [finding.sites for finding in alone] == [("0.weight",)]


def test_what_a_checkpoint_leaves_open_is_not_added(path: Path) -> None:
    """A rule that was run and is silent has nothing skipped by what is stored."""
    report = warm(path)
    assert report.profile is not None
    alone = replace(report.profile, stored=None)
    beside = {each.what for each in gradscope.diagnose(alone, ignore=["GS3"]).skipped}
    assert {each.what for each in gradscope.diagnose(report.profile, ignore=["GS3"]).skipped} <= (
        beside
    )
    assert not any("--model" in each.reason for each in report.skipped)


def test_settings_hide_layers_in_both(path: Path) -> None:
    profile = warm(path).profile
    assert profile is not None
    settings = gradscope.Settings(ignored_sites={"0.*": ("GS201",)})
    findings = gradscope.diagnose(profile, select=["GS201"], settings=settings)
    assert findings.items == ()
    assert "GS201 at 0.*" in {each.what for each in findings.skipped}


def test_a_repair_on_made_up_inputs_is_proposed_and_not_proved(path: Path) -> None:
    subject = restored(Subject.of(build_model(), None, loss), open_checkpoint(path), "build_model")
    report = gradscope.fix(subject, select=["GS201"], unsafe=True)
    assert report.verdict is not None
    assert report.verdict.status.value in ("unverified", "no-effect")


# --- Hugging Face folders -------------------------------------------------------------------------


def folder(path: Path, **config: Any) -> Any:
    """What transformers' Trainer leaves."""
    torch.manual_seed(0)
    model = build("BertForSequenceClassification", BERT)
    model.config.architectures = [type(model).__name__]
    for key, value in config.items():
        setattr(model.config, key, value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(90, (8, 12))
    model(input_ids=tokens, labels=torch.arange(8) % 2).loss.backward()
    optimizer.step()
    model.save_pretrained(path)
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    return model


def test_the_optimizer_in_a_folder_is_looked_at(tmp_path: Path) -> None:
    folder(tmp_path)
    subject = gradscope.load_subject(str(tmp_path))
    assert (subject.kind, subject.synthetic) == ("Hugging Face folder", False)
    assert subject.checkpoint is not None
    assert subject.checkpoint.optimizers
    profile = gradscope.scan(subject, steps=2, select=["GS1", "GS2"]).profile
    assert profile is not None
    assert profile.stored is not None
    assert profile.measured
    assert any(each.moment for each in profile.stored.gradients)
    (tmp_path / "optimizer.pt").write_bytes(b"PK\x03\x04")
    subject = gradscope.load_subject(str(tmp_path))
    assert subject.checkpoint is None
    assert [each.what for each in subject.skipped] == ["the optimizer's state"]
    assert "optimizer.pt" in subject.skipped[0].reason
    (tmp_path / "optimizer.pt").unlink()
    subject = gradscope.load_subject(str(tmp_path))
    assert (subject.checkpoint, subject.skipped) == (None, ())


def test_a_folder_is_put_into_the_model_of_its_own_config(tmp_path: Path) -> None:
    model = folder(tmp_path)
    empty = load_folder(tmp_path, with_weights=False)
    assert empty.kind == "Hugging Face folder, fresh weights"
    own = restored(empty, open_checkpoint(tmp_path), "config.json").build_model()
    assert all(map(torch.equal, own.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("base_first", [True, False])
def test_a_base_model_and_one_with_a_prefix(tmp_path: Path, base_first: bool) -> None:
    """A base model's weights lack its prefix, or have it where only the base is built."""
    base = build("BertModel", BERT)
    names = {f"bert.{name}": value for name, value in base.state_dict().items()}
    torch.save(base.state_dict() if base_first else names, tmp_path / "model.pt")

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = build("BertModel", BERT)

    model = Whole() if base_first else build("BertModel", BERT)
    subject = restored(Subject.of(model, None, loss), open_checkpoint(tmp_path / "model.pt"), "it")
    assert [each.what for each in subject.skipped] == ["prefix bert."]
    assert all(
        map(torch.equal, subject.build_model().state_dict().values(), base.state_dict().values())
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"model_type": "of-my-own"}', "does not have the kind of model 'of-my-own'"),
        ('{"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}', "is not run"),
        ('{"hidden": 3}', "a model of no kind that it names"),
        ('{"model_type": "bert", "architectures": ["MyBert"]}', "has no MyBert"),
        ("{", None),
        ('{"model_type": "bert", "hidden_size": "many"}', None),
    ],
)
def test_what_cannot_be_built_is_told_from_what_is_damaged(
    tmp_path: Path, text: str, reason: str | None
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SubjectError) as caught:
        load_folder(tmp_path).build_model()
    if reason is None:
        assert not isinstance(caught.value, CannotBuild)
    else:
        assert isinstance(caught.value, CannotBuild)
        assert reason in caught.value.reason
