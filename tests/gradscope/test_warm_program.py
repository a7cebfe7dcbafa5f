"""The graph of an exported program, run as a model: sites, names, inputs, what is refused."""

from __future__ import annotations

import copy
import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export, save

import gradscope
from gradscope.batches import call_model
from gradscope.errors import CheckpointError, ModelError
from gradscope.exported import is_program, load_program
from gradscope.records import Role


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.relu(self.norm(self.conv(x))))


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.scale = nn.Parameter(torch.ones(3 * 16))
        self.head = nn.Linear(3 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x).flatten(1) * self.scale
        return self.head(torch.sigmoid(x))


class Words(nn.Module):
    """Takes two arguments, one by its name; and a layer of its own twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.layer = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 2)

    def forward(self, tokens: Tensor, *, mask: Tensor) -> Tensor:
        x = self.layer(torch.tanh(self.layer(self.table(tokens))))
        x = torch.where(mask[..., None], self.norm(x), 0.0)
        return self.out(x.mean(dim=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One program of each kind: images with sizes that may vary, words with fixed ones."""
    path = tmp_path_factory.mktemp("programs")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image().eval()
        image(torch.randn(20, 2, 4, 4))
        batch = Dim("batch", min=2, max=64)
        inputs = (torch.randn(6, 2, 4, 4) + 3,)
        save(export(image, inputs, dynamic_shapes=({0: batch},)), path / "image.pt2")
        torch.save(image.state_dict(), path / "image.pt")
        words = {"mask": torch.ones(4, 5, dtype=torch.bool)}
        program = export(Words(), (torch.randint(11, (4, 5)),), words)
        save(program, path / "words.pt2")
        program.example_inputs = None
        save(program, path / "shapes.pt2")
    return path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def told(subject: gradscope.Subject) -> dict[str, str]:
    return {each.what: each.reason for each in subject.skipped}


def test_it_computes_what_was_exported(folder: Path) -> None:
    model = load_program(folder / "image.pt2", trusted=True).build_model()
    reference = Image().eval()
    reference.load_state_dict(torch.load(folder / "image.pt"))
    x = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(model(x), reference(x))
    torch.testing.assert_close(copy.deepcopy(model).train()(x), reference(x))
    assert set(model.state_dict()) == set(reference.state_dict())
    assert all(torch.equal(model.state_dict()[k], v) for k, v in reference.state_dict().items())
    model(x).sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_its_sites_lie_in_the_modules_of_then(folder: Path) -> None:
    subject = load_program(folder / "image.pt2", trusted=True)
    profile = gradscope.scan(subject, steps=3).profile
    assert profile is not None
    assert [(site.name, site.role) for site in profile.sites] == [
        ("blocks.0.conv::conv2d@0", Role.LAYER),
        ("blocks.0.norm::batch_norm@0", Role.NORMALISATION),
        ("blocks.0.relu::relu@0", Role.ACTIVATION),
        ("::sigmoid@0", Role.ACTIVATION),
        ("head::linear@0", Role.LAYER),
    ]
    assert [site.is_output for site in profile.sites] == [False, False, False, False, True]
    assert all(site.backward_rms[0] > 0 for site in profile.sites)
    assert profile.site("blocks.0.relu::relu@0").dead is not None
    assert profile.site("::sigmoid@0").saturated is not None
    modules = {site.module for site in profile.sites}
    assert {"blocks.0.conv", "head"} <= modules
    assert all(entry.reached for entry in profile.parameters)
    assert {entry.module for entry in profile.parameters} == {
        "blocks.0.conv", "blocks.0.norm", "", "head",
    }  # fmt: skip


def test_the_numbers_are_those_of_the_model_it_was_made_of(folder: Path) -> None:
    reference = Image()
    reference.load_state_dict(torch.load(folder / "image.pt"))
    # The mode of its export, in which a model of code is not profiled by itself.
    for module in (reference.blocks[0].norm, reference.blocks[0].drop):
        module.__dict__.update(train=lambda mode: None, training=False)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(8, 2, 4, 4, generator=generator) for _ in range(3)]

    def loss(output: Tensor, batch: Tensor) -> Tensor:
        return output.square().mean()

    run = load_program(folder / "image.pt2", trusted=True).build_model()
    own = gradscope.profile(run, batches, loss)
    other = gradscope.profile(reference, batches, loss)
    assert own.losses == pytest.approx(other.losses)
    for one in own.sites:
        name = one.name if one.name.startswith("::") else one.module
        for field in ("forward_rms", "backward_rms", "variation"):
            assert getattr(one, field) == pytest.approx(getattr(other.site(name), field), rel=1e-4)


def test_its_own_example_inputs_come_first(folder: Path) -> None:
    subject = load_program(folder / "image.pt2", trusted=True)
    batches = list(subject.data())
    assert (len(batches), subject.synthetic) == (64, True)
    assert all(batch.shape == (6, 2, 4, 4) for batch in batches)
    assert float(torch.stack(batches[1:]).mean()) == pytest.approx(
        float(batches[0].mean()), abs=0.1
    )
    assert not torch.equal(batches[1], batches[2])
    assert all(map(torch.equal, batches, subject.data()))
    assert "its example inputs of shape 6x2x4x4 were passed" in told(subject)["data"]
    report = gradscope.scan(subject, steps=2)
    assert report.skipped[0].what == "data"
    assert [each.what for each in report.skipped].count("data") == 1
    assert "train() and eval()" in {each.what for each in report.skipped}


@pytest.mark.parametrize("name", ["words.pt2", "shapes.pt2"])
def test_several_inputs_are_passed_by_name(folder: Path, name: str) -> None:
    subject = load_program(folder / name, trusted=True)
    batch, other = list(subject.data())[:2]
    assert set(batch) == {"tokens", "mask"}
    for each in (batch, other):
        assert each["mask"].all()
        assert each["tokens"].shape == (4, 5)
        assert each["tokens"].min() >= 0
        assert each["tokens"].max() < 11
    assert not torch.equal(batch["tokens"], other["tokens"])
    assert call_model(subject.build_model(), batch).shape == (4, 2)
    profile = gradscope.scan(subject, steps=2).profile
    assert profile is not None
    names = [site.name for site in profile.sites]
    assert names[0] == "table::embedding@0"
    assert {"layer::linear@0", "layer::linear@1", "norm::layer_norm@0", "::tanh@0"} <= set(names)


def test_sizes_that_were_fixed_are_said(folder: Path) -> None:
    model = load_program(folder / "words.pt2", trusted=True).build_model()
    with pytest.raises(ModelError, match=r"exported for inputs of other sizes .*dynamic_shapes"):
        model(torch.zeros(2, 5, dtype=torch.long), mask=torch.ones(2, 5, dtype=torch.bool))


def test_trials_get_models_of_their_own(folder: Path) -> None:
    subject = load_program(folder / "image.pt2", trusted=True)
    one, other = subject.build_model(), subject.build_model()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0


def test_one_that_would_execute_something_is_refused(folder: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pt2"
    ran = tmp_path / "ran"
    with zipfile.ZipFile(folder / "image.pt2") as source, zipfile.ZipFile(hostile, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("models/model.json"):
                program = json.loads(data)
                program["guards_code"] = [f"open({str(ran)!r}, 'w')"]
                data = json.dumps(program).encode()
            target.writestr(entry.filename, data)
    assert is_program(hostile)
    with pytest.raises(CheckpointError) as caught:
        load_program(hostile, trusted=False)
    assert "brings its graph with it" in str(caught.value)
    assert "without --model" in str(caught.value)
    assert not ran.exists()


def test_what_is_no_program(folder: Path, tmp_path: Path) -> None:
    assert not is_program(folder / "image.pt")
    assert not is_program(tmp_path / "missing.pt2")
    assert not is_program(tmp_path)


def test_a_fused_layer_is_said_to_be_unseen(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)
            self.out = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            return self.out(torch.tanh(self.gru(x)[0][:, -1]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(export(Recurrent(), (torch.randn(4, 5, 3),)), tmp_path / "gru.pt2")
    subject = load_program(tmp_path / "gru.pt2", trusted=True)
    assert "nobody can look" in told(subject)["gru"]
    profile = gradscope.scan(subject, steps=2).profile
    assert profile is not None
    assert [site.name for site in profile.sites] == ["::tanh@0", "out::linear@0"]
