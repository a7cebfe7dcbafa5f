"""Weights of a checkpoint in a model that code builds: names, shapes, types, what is refused."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.checkpoints import open_checkpoint
from gradscope.errors import CheckpointError, ModelError
from gradscope.prefixes import best_renaming
from gradscope.restoring import restored
from gradscope.subject import Subject

WHERE = "train.py:build_model"


class Tied(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight


class Counting(nn.Linear):
    """Saves what is no tensor, and makes a buffer that it does not save."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.state = "fresh"

    def get_extra_state(self) -> Any:
        return {"calls": 3, "seen": torch.arange(4.0)}

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def wrapped(name: str, model: nn.Module) -> nn.Module:
    outer = nn.Module()
    outer.add_module(name, model)
    return outer


def put(
    path: Path, saved: Any, build: Callable[[], nn.Module] = small
) -> tuple[nn.Module, dict[str, str]]:
    """The model with the weights of what is saved, and what is said about it."""
    torch.save(saved, path)
    subject = restored(subject_of(build), open_checkpoint(path), WHERE)
    return subject.build_model(), {each.what: each.reason for each in subject.skipped}


def subject_of(build: Callable[[], nn.Module]) -> Subject:
    return Subject("train.py", build, None, lambda model, batch: torch.zeros(()))


def refused(path: Path, saved: Any, build: Callable[[], nn.Module] = small) -> str:
    with pytest.raises(CheckpointError) as caught:
        put(path, saved, build)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit {WHERE}: ")
    assert message.count(". ") == 1
    return message.removeprefix(f"{path} does not fit {WHERE}: ")


def same(model: nn.Module, weights: dict[str, Any]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], value) for name, value in weights.items())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture
def trained() -> nn.Sequential:
    torch.manual_seed(1)
    model = small()
    model(torch.randn(9, 3))
    return model


# --- What fits ------------------------------------------------------------------------------------


def lightning(weights: dict[str, Tensor]) -> Any:
    state = {f"model.{name}": value for name, value in weights.items()}
    return {"pytorch-lightning_version": "2.5", "state_dict": state, "global_step": 7}


SAVED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "bare": (lambda weights: weights, ""),
    "with an optimizer": (lambda weights: {"model": weights, "step": 3}, ""),
    "Lightning": (lightning, "prefix model."),
    "DDP": (lambda weights: {f"module.{key}": each for key, each in weights.items()}, "module"),
    "compiled": (lambda weights: {f"_orig_mod.{key}": w for key, w in weights.items()}, "_orig"),
    "deep": (lambda weights: {f"a.b.{key}": each for key, each in weights.items()}, "prefix a.b."),
}


@pytest.mark.parametrize("form", SAVED)
def test_weights_are_put_in_by_name(path: Path, trained: nn.Sequential, form: str) -> None:
    save, said = SAVED[form]
    model, told = put(path, save(trained.state_dict()))
    assert same(model, trained.state_dict())
    assert not said or any(said in what for what in told)
    assert said or not any("prefix" in what for what in told)


@pytest.mark.parametrize(("name", "said"), [("model", "prefix model."), ("_orig_mod", "")])
def test_the_model_may_have_the_prefix(
    path: Path, trained: nn.Sequential, name: str, said: str
) -> None:
    model, told = put(path, trained.state_dict(), lambda: wrapped(name, small()))
    assert same(model, {f"{name}.{key}": each for key, each in trained.state_dict().items()})
    assert [what for what in told if "prefix" in what] == ([said] if said else [])
    assert not said or "put before" in told[said]


def test_each_model_gets_the_weights_and_none_is_another(
    path: Path, trained: nn.Sequential
) -> None:
    torch.save(trained.state_dict(), path)
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(small())
        return built[-1]

    state = torch.random.get_rng_state()
    subject = restored(subject_of(build), open_checkpoint(path), WHERE)
    assert torch.equal(torch.random.get_rng_state(), state)
    models = [subject.build_model() for _ in range(3)]
    assert models == built
    with torch.no_grad():
        next(models[0].parameters()).zero_()
    assert all(same(model, trained.state_dict()) for model in models[1:])
    assert (subject.name, subject.kind) == (str(path), f"torch.save file in {WHERE}")
    assert subject.checkpoint is not None


def test_the_models_type_is_kept_and_said(path: Path, trained: nn.Sequential) -> None:
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in trained.state_dict().items()
    }
    model, told = put(path, half)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert same(model, {name: value.to(trained.state_dict()[name]) for name, value in half.items()})
    assert told["type float16"] == "8 stored so run in the model's type, float32"


@pytest.mark.parametrize("kept", ["both", "table.weight", "head.weight"])
def test_tied_weights_are_no_difference(path: Path, kept: str) -> None:
    weights = Tied().state_dict()
    saved = weights if kept == "both" else {kept: weights[kept]}
    model, _ = put(path, saved, Tied)
    assert same(model, weights)
    assert model.head.weight is model.table.weight  # type: ignore[union-attr]


def test_what_was_tied_and_is_no_more_gets_it_twice(path: Path) -> None:
    weights = Tied().state_dict()
    model, _ = put(path, weights, lambda: Tied(tied=False))
    assert same(model, weights)
    # A name that only the file has, of a tensor that the model has by another.
    model, _ = put(path, {**weights, "decoder.weight": weights["head.weight"]}, Tied)
    assert same(model, weights)


def test_buffers_that_are_not_saved_and_extra_state_are_no_difference(path: Path) -> None:
    source = Counting()
    model, told = put(path, source.state_dict(), Counting)
    assert same(model, {"weight": source.weight, "bias": source.bias})
    plain = {"weight": source.weight.detach(), "bias": source.bias.detach()}
    put(path, plain, Counting)
    _, told = put(path, {**plain, "mask": torch.zeros(2)}, Counting)
    assert told["mask"] == "the model makes it by itself, and does not save it"
    model, told = put(path, {**plain, "_extra_state": torch.zeros(3)}, Counting)
    assert model.state == "fresh"
    assert "not restored" in told["_extra_state"]


def test_counters_that_old_files_lack_start_at_zero(path: Path, trained: nn.Sequential) -> None:
    old = dict(trained.state_dict())
    del old["1.num_batches_tracked"]
    model, told = put(path, old)
    assert model[1].num_batches_tracked == 0  # type: ignore[index]
    assert told["num_batches_tracked"] == "not in the checkpoint; counts from 0"


def test_a_counter_that_is_a_row_of_one_is_a_number(path: Path, trained: nn.Sequential) -> None:
    old = trained.state_dict()
    old["1.num_batches_tracked"] = torch.tensor([5])
    model, _ = put(path, old)
    assert model[1].num_batches_tracked == 5  # type: ignore[index]


# --- What does not --------------------------------------------------------------------------------


def test_a_renamed_layer_is_told_with_the_nearest_name(path: Path) -> None:
    named = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), classifier=nn.Linear(4, 2)))
    other = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), clasifier=nn.Linear(4, 2)))
    assert refused(path, named.state_dict(), lambda: copy.deepcopy(other)) == (
        "2 weights of the model are not in it: 'clasifier.weight' (nearest: 'classifier.weight'), "
        "'clasifier.bias' (nearest: 'classifier.bias'); 2 tensors in it are not in the model: "
        "'classifier.weight' (nearest: 'clasifier.weight'), 'classifier.bias' (nearest: "
        "'clasifier.bias'). Give the code that the checkpoint was trained with."
    )


def test_an_extra_head_is_told_of_either_side(path: Path, trained: nn.Sequential) -> None:
    def larger() -> nn.Sequential:
        return small().append(nn.Linear(2, 1, bias=False))

    message = refused(path, trained.state_dict(), larger)
    assert message.startswith("1 weight of the model is not in it: '4.weight' (nearest: '")
    message = refused(path, larger().state_dict())
    assert message.startswith("1 tensor in it is not in the model: '4.weight' (nearest: '")
    message = refused(path, lightning({**trained.state_dict(), "4.bias": torch.zeros(1)}))
    assert message.startswith("1 tensor in it is not in the model: '")
    assert "4.bias' (nearest: '3.bias')" in message


def test_beside_a_prefix_that_not_all_have_the_rest_is_told(
    path: Path, trained: nn.Sequential
) -> None:
    saved = lightning(trained.state_dict())
    saved["state_dict"]["loss.weight"] = torch.ones(2)
    message = refused(path, saved)
    assert message.startswith("1 tensor in it is not in the model: 'loss.weight'")


def test_many_names_are_counted(path: Path) -> None:
    message = refused(path, nn.Conv1d(3, 4, 2).state_dict())
    assert "8 weights of the model are not in it" in message
    assert "and 5 more; 2 tensors in it are not in the model" in message


def test_other_sizes_are_told_before_anything_is_changed(
    path: Path, trained: nn.Sequential
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    before = copy.deepcopy(model.state_dict())
    assert refused(path, trained.state_dict(), lambda: model) == (
        "'3.weight' has shape 2x4 in it and 3x4 in the model (and 1 more differ). Build the model "
        "with the sizes that it was saved with."
    )
    assert same(model, before)


def test_complex_numbers_are_not_made_real(path: Path) -> None:
    saved = {"weight": torch.zeros(2, 3, dtype=torch.complex64), "bias": torch.zeros(2)}
    torch.save(saved, path)
    with pytest.raises(CheckpointError):
        put(path, saved, lambda: nn.Linear(3, 2))


def test_models_that_hold_no_numbers(path: Path, trained: nn.Sequential) -> None:
    torch.save(trained.state_dict(), path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(ModelError, match="lazy layers"):
        restored(subject_of(lambda: nn.LazyLinear(2)), checkpoint, WHERE)
    with pytest.raises(CheckpointError, match="meta device"):
        restored(subject_of(lambda: small().to("meta")), checkpoint, WHERE)


def test_a_model_that_saves_copies_of_its_weights(path: Path, trained: nn.Sequential) -> None:
    class Copies(nn.Sequential):
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {name: value + 0 for name, value in super().state_dict(*args, **kwargs).items()}

    torch.save(trained.state_dict(), path)
    with pytest.raises(CheckpointError, match=r"load the checkpoint in build_model\(\)"):
        restored(subject_of(lambda: Copies(*small())), open_checkpoint(path), WHERE)


@pytest.mark.parametrize(
    ("stored", "own", "taken", "put_before"),
    [
        ("a b", "a b", "", ""),
        ("m.a m.b", "a b", "m.", ""),
        ("m.n.a m.n.b", "n.a n.b", "m.", ""),
        ("a b", "m.n.a m.n.b", "", "m.n."),
        ("m.a m.b", "n.a n.b", "", ""),
        ("m.a m.b x", "a b", "m.", ""),
        ("a b", "m.a m.b m.c m.d m.e", "", ""),
    ],
)
def test_the_prefix_that_fits_best(stored: str, own: str, taken: str, put_before: str) -> None:
    renaming = best_renaming(stored.split(), own.split())
    assert (renaming.taken, renaming.put) == (taken, put_before)
