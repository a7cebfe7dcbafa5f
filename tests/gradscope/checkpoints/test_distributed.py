from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import (
    SerializationFormat,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from tests.gradscope.checkpoints.distributed_folders import (
    READER,
    assert_optimizer,
    assert_same,
    read,
    save,
    trained,
)


@pytest.mark.parametrize("form", ["by name", "flattened", "by number"])
@pytest.mark.parametrize("single", [True, False], ids=["one file", "a file each"])
def test_all_is_read_as_it_was(form: str, single: bool, tmp_path: Path) -> None:
    # Without names, which parameter is meant is told by the shapes, in the order of the model.
    model, optimizer = trained(groups=form != "by number")
    if form == "by number":
        state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    else:
        options = StateDictOptions(flatten_optimizer_state_dict=form == "flattened")
        of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
        state = {"model": of_model, "optimizer": of_optimizer}
    folder = save({**state, "note": "hello"}, tmp_path / "saved", single_file_per_rank=single)

    assert READER.recognises(folder)
    checkpoint = read(folder)

    assert checkpoint.form == READER.form
    assert list(checkpoint.weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert_same(checkpoint.weights[name], tensor)
    assert checkpoint.step == 3
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert_optimizer(checkpoint, optimizer, names)


def test_a_bare_state_dict_is_read(tmp_path: Path) -> None:
    model, _ = trained()
    checkpoint = read(save(dict(model.state_dict()), tmp_path / "saved"))
    assert list(checkpoint.weights) == list(model.state_dict())


def test_deeper_applications_are_read(tmp_path: Path) -> None:
    model, optimizer = trained()
    of_model, of_optimizer = get_state_dict(model, optimizer)
    folder = save({"app": {"model": of_model, "optim": of_optimizer}}, tmp_path / "saved")
    checkpoint = read(folder)
    assert list(checkpoint.weights) == list(model.state_dict())
    assert [found.kind for found in checkpoint.optimizers] == ["AdamW"]


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool],
)
def test_types_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    checkpoint = read(save({"w": tensor, "empty": torch.empty(0, 4)}, tmp_path / "saved"))
    loaded = checkpoint.weights["w"].load()
    assert loaded.dtype == dtype
    assert torch.equal(loaded.to(torch.float64), tensor.to(torch.float64))
    assert checkpoint.weights["empty"].load().shape == (0, 4)


def test_safetensors_are_read(tmp_path: Path) -> None:
    model, _ = trained()
    form = {"serialization_format": SerializationFormat.SAFETENSORS}
    folder = save({"model": model.state_dict(), "epoch": 4}, tmp_path / "saved", **form)
    checkpoint = read(folder)
    assert list(checkpoint.weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert_same(checkpoint.weights[name], tensor)


def test_an_object_of_a_class_is_left_out(tmp_path: Path) -> None:
    folder = save({"w": torch.ones(2, 3), "object": functools.partial(print, 1)}, tmp_path / "s")
    checkpoint = read(folder)
    assert list(checkpoint.weights) == ["w"]
    assert [skipped.what for skipped in checkpoint.skipped] == ["object"]


def test_other_folders_are_not_recognised(tmp_path: Path) -> None:
    assert not READER.recognises(tmp_path)
    assert not READER.recognises(tmp_path / "missing")
    (tmp_path / ".metadata").mkdir()
    assert not READER.recognises(tmp_path)
