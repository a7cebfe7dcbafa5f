"""Every form of file and folder gives back what was saved, bit by bit."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.checkpoints import Checkpoint, checkpoints_in, open_checkpoint
from gradscope.checkpoints.storage.paging import MappedTensor, looked_at, release
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.trained import same_optimizer, same_weights, trained, whole

safetensors = pytest.importorskip("safetensors.torch")


def untied(net: nn.Module) -> dict[str, Any]:
    """As transformers saves: one name of weights that are shared."""
    state = net.state_dict()
    return {name: tensor.clone() for name, tensor in state.items() if name != "head.weight"}


def read(path: Path, **settings: Any) -> Checkpoint:
    return open_checkpoint(path, **settings)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("trust", [True, False])
def test_torch_save(tmp_path: Path, new: bool, trust: bool) -> None:
    path = tmp_path / "a.anything"
    torch.save(whole(), path, _use_new_zipfile_serialization=new)
    checkpoint = read(path, trust_pickle=trust)
    assert checkpoint.form == ("torch.save file" if new else "torch.save file of the old format")
    assert checkpoint.name == str(path)
    assert checkpoint.step == 5
    assert checkpoint.aliases == {"head.weight": "body.3.weight"}
    assert not checkpoint.skipped
    same_weights(checkpoint, trained()[0])
    (optimizer,) = checkpoint.optimizers
    assert optimizer.kind == "AdamW"
    assert optimizer.matching == "all 9 by order and shape"
    same_optimizer(optimizer, *trained())


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_protocols_of_pickles(tmp_path: Path, new: bool, protocol: int) -> None:
    path = tmp_path / "a"
    torch.save(whole(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    checkpoint = read(path)
    assert checkpoint.aliases == {"head.weight": "body.3.weight"}
    same_weights(checkpoint, trained()[0])
    same_optimizer(checkpoint.optimizers[0], *trained())


def test_big_endian_numbers_are_told(tmp_path: Path) -> None:
    torch.save(whole(), tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as old, zipfile.ZipFile(tmp_path / "b", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("/byteorder") else old.read(name))
    with pytest.raises(CheckpointError, match="its numbers are big-endian, which is not read"):
        read(tmp_path / "b")


def test_the_list_of_a_zip_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(whole(), tmp_path / "a")
    opened: list[Any] = []
    real = zipfile.ZipFile

    def counted(*given: Any) -> zipfile.ZipFile:
        opened.append(given)
        return real(*given)

    monkeypatch.setattr(zipfile, "ZipFile", counted)
    assert read(tmp_path / "a").weights
    assert len(opened) == 1
    torch.save({"other.weight": torch.ones(2)}, tmp_path / "a")
    assert list(read(tmp_path / "a").weights) == ["other.weight"]


def test_a_bare_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(trained()[0].state_dict(), path)
    checkpoint = read(path)
    same_weights(checkpoint, trained()[0])
    assert list(checkpoint.weights)[:2] == ["body.0.weight", "body.0.bias"]
    assert (checkpoint.optimizers, checkpoint.step) == ((), None)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.json", "noextension"])
def test_the_name_of_a_file_tells_nothing(tmp_path: Path, name: str) -> None:
    torch.save(whole(), tmp_path / name)
    assert read(tmp_path / name).form == "torch.save file"
    safetensors.save_file(untied(trained()[0]), tmp_path / name)
    assert read(tmp_path / name).form == "safetensors file"


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = untied(trained()[0])
    safetensors.save_file(state, path, metadata={"format": "pt"})
    checkpoint = read(path)
    assert checkpoint.form == "safetensors file"
    assert checkpoint.weights.keys() == state.keys()
    for name, stored in checkpoint.weights.items():
        assert torch.equal(stored.load(), state[name])


TYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]
TYPES += ["bool", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_every_type_of_number_and_empty_tensors(tmp_path: Path, form: str) -> None:
    types = [getattr(torch, name) for name in TYPES]
    if form == "legacy":
        types = [dtype for dtype in types if str(dtype).removeprefix("torch.") not in TYPES[10:]]
    state = {str(dtype): torch.arange(2, 8).reshape(2, 3).to(dtype) for dtype in types}
    state["scalar"] = torch.tensor(3.5)
    state["empty"] = torch.empty(0, 4)
    path = tmp_path / "a"
    if form == "safetensors":
        safetensors.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    checkpoint = read(path)
    assert checkpoint.weights.keys() == state.keys()
    for name, stored in checkpoint.weights.items():
        loaded = stored.load()
        assert (loaded.dtype, loaded.shape) == (state[name].dtype, state[name].shape)
        assert torch.equal(loaded.double(), state[name].double())


def test_numbers_at_odd_offsets(tmp_path: Path) -> None:
    """The format allows them; torch cannot look at them in place."""
    values = torch.arange(5, dtype=torch.float64)
    entry = {"dtype": "F64", "shape": [5], "data_offsets": [0, 40]}
    for spaces in range(8):
        header = json.dumps({"a": entry}).encode() + b" " * spaces
        path = tmp_path / "a"
        path.write_bytes(struct.pack("<Q", len(header)) + header + values.numpy().tobytes())
        stored = read(path).weights["a"]
        assert torch.equal(stored.load(), values)
        assert isinstance(stored, MappedTensor) == ((len(header) + 8) % 8 == 0)


def test_types_that_torch_does_not_have_are_skipped(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "a": {"dtype": "F8_E4M3FNUZ", "shape": [2], "data_offsets": [0, 2]},
            "b": {"dtype": "FUTURE", "shape": [2], "data_offsets": [2, 9]},
            "c": {"dtype": "U8", "shape": [1], "data_offsets": [9, 10]},
        }
    ).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(10))
    checkpoint = read(tmp_path / "a")
    assert list(checkpoint.weights) == ["c"]
    assert [(skipped.what, skipped.reason) for skipped in checkpoint.skipped] == [
        ("a", "has the type F8_E4M3FNUZ, which is not read"),
        ("b", "has the type FUTURE, which is not read"),
    ]


# --- Shards and folders -----------------------------------------------------------------------


def shards(folder: Path, form: str) -> Path:
    """Writes the weights as two files and an index, as save_pretrained does."""
    folder.mkdir(exist_ok=True)
    state = untied(trained()[0])
    names = list(state)
    places = {}
    stem = "model" if form == "safetensors" else "pytorch_model"
    for number, own in enumerate((names[:4], names[4:]), start=1):
        shard = f"{stem}-{number:05}-of-00002.{form}"
        part = {name: state[name] for name in own}
        safetensors.save_file(part, folder / shard) if form == "safetensors" else torch.save(
            part, folder / shard
        )
        places |= dict.fromkeys(own, shard)
    index = folder / f"{stem}.{form}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict(sorted(places.items()))}))
    return index


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("of_folder", [True, False])
def test_shards(tmp_path: Path, form: str, of_folder: bool) -> None:
    index = shards(tmp_path / "model", form)
    checkpoint = read(index.parent if of_folder else index)
    state = untied(trained()[0])
    assert "sharded" in checkpoint.form
    assert checkpoint.weights.keys() == state.keys()
    assert list(checkpoint.weights) == list(state)
    assert checkpoint.order == ("model" if form == "bin" else "names")
    for name, stored in checkpoint.weights.items():
        assert torch.equal(stored.load(), state[name])


@pytest.mark.parametrize("is_sorted", [True, False])
def test_shards_and_their_index_tell_of_the_order(tmp_path: Path, is_sorted: bool) -> None:
    """By shard ``zulu`` comes first; an index that is not sorted tells all of the order."""
    order = ["zulu.weight", "mike.weight", "bravo.weight", "alpha.weight", "head.weight"]
    shards = [order[:1], order[1:]]
    places = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        safetensors.save_file({name: torch.ones(2, 2) for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    places = dict(sorted(places.items())) if is_sorted else places
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    by_shard = [order[0], *sorted(order[1:-1]), order[-1]]
    assert list(read(index).weights) == (by_shard if is_sorted else order)


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
def test_a_hugging_face_folder_of_a_trainer(tmp_path: Path, form: str) -> None:
    net, optimizer = trained()
    (tmp_path / "config.json").write_text("{}")
    if form == "safetensors":
        safetensors.save_file(untied(net), tmp_path / "model.safetensors")
    elif form == "bin":
        torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        shards(tmp_path, "bin")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"last_epoch": 5}, tmp_path / "scheduler.pt")
    torch.save({"python": (3, tuple(range(9)), None)}, tmp_path / "rng_state.pth")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 1234}))
    checkpoint = read(tmp_path)
    assert checkpoint.form == "Hugging Face folder"
    assert checkpoint.step == 1234
    assert {skipped.what for skipped in checkpoint.skipped} == {"scheduler.pt", "rng_state.pth"}
    (read_optimizer,) = checkpoint.optimizers
    if form == "safetensors":
        assert read_optimizer.matching == "all 9 by shape and the modules' names"
        assert list(checkpoint.weights) == [
            name for name in net.state_dict() if name != "head.weight"
        ]
    same_optimizer(read_optimizer, net, optimizer)


def test_an_accelerate_folder_of_two_models(tmp_path: Path) -> None:
    net, optimizer = trained()
    other = nn.Linear(6, 3)
    second = torch.optim.SGD(other.parameters(), lr=0.5, momentum=0.9)
    other(torch.randn(2, 6)).sum().backward()
    second.step()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(other.state_dict(), tmp_path / "pytorch_model_1.bin")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    torch.save(second.state_dict(), tmp_path / "optimizer_1.bin")
    torch.save({"last_epoch": 5}, tmp_path / "scheduler.bin")
    (tmp_path / "random_states_0.pkl").write_bytes(b"never unpickled")
    checkpoint = read(tmp_path)
    assert checkpoint.form == "accelerate folder"
    assert checkpoint.weights.keys() == {
        *(f"model.{name}" for name in untied(net)),
        *(f"model_1.{name}" for name in other.state_dict()),
    }
    assert [told.what for told in checkpoint.skipped] == ["random_states_0.pkl", "scheduler.bin"]
    first_read, second_read = checkpoint.optimizers
    assert (first_read.kind, second_read.kind) == ("AdamW", "SGD")
    assert first_read.matching == "all 9 by order and shape, in 'model'"
    assert second_read.state.keys() == {"model_1.weight", "model_1.bias"}


def test_a_folder_with_one_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("of no interest")
    torch.save(trained()[0].state_dict(), tmp_path / "weights.pt")
    torch.save(trained()[1].state_dict(), tmp_path / "optimizer.pt")
    checkpoint = read(tmp_path)
    assert checkpoint.form == "folder with a torch.save file"
    same_weights(checkpoint, trained()[0])
    same_optimizer(checkpoint.optimizers[0], *trained())


def test_a_folder_of_checkpoints_in_the_order_of_their_steps(tmp_path: Path) -> None:
    names = ["model_1000.pt", "model_200.pt", "last.pt", "epoch=3-step=90.ckpt", "checkpoint-500"]
    for name in names:
        file = tmp_path / name
        if name == "checkpoint-500":
            file.mkdir()
            (file / "config.json").write_text("{}")
            file = file / "pytorch_model.bin"
        torch.save(trained()[0].state_dict(), file)
    (tmp_path / "log.txt").write_text("text")
    found = [path.name for path in checkpoints_in(tmp_path)]
    assert found == [names[3], names[1], names[4], names[0], names[2]]
    with pytest.raises(CheckpointError, match=r"holds 5 checkpoints \('epoch=3-step=90\.ckpt', "):
        read(tmp_path)
    assert checkpoints_in(tmp_path / "checkpoint-500") == [tmp_path / "checkpoint-500"]
    shutil.rmtree(tmp_path / "checkpoint-500")
    assert len(checkpoints_in(tmp_path)) == 4


# --- Memory -----------------------------------------------------------------------------------

STREAM = """
import sys
from gradscope.checkpoints import open_checkpoint
from gradscope.checkpoints.storage.paging import looked_at

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))

before, total = peak(), 0.0
for stored in open_checkpoint(sys.argv[1]).weights.values():
    with looked_at(stored) as tensor:
        total += float(tensor.sum())
print(peak() - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "unaligned"])
def test_a_large_file_takes_the_memory_of_its_largest_tensor(
    tmp_path: Path, form: str, record_property: Callable[[str, object], None]
) -> None:
    """256 MiB in tensors of 16 MiB; the file system holds no more than one of them."""
    path = tmp_path / "large"
    count, length = 16, 1 << 24
    if form in ("zip", "legacy"):
        one = torch.zeros(length // 4)
        torch.save(
            {f"layer.{n}.weight": one + n for n in range(count)},
            path,
            _use_new_zipfile_serialization=form == "zip",
        )
    else:
        entries = {
            f"layer.{n}.weight": {
                "dtype": "F32",
                "shape": [length // 4],
                "data_offsets": [n * length, (n + 1) * length],
            }
            for n in range(count)
        }
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8 + (form == "unaligned"))
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + count * length)
    done = subprocess.run(
        [sys.executable, "-c", STREAM, path], capture_output=True, text=True, check=True
    )
    mebibytes, total = done.stdout.split()
    record_property("measured", f"checkpoint of 256 MiB, {form}: {mebibytes} MiB more at the peak")
    assert int(mebibytes) < 100
    assert float(total) == (sum(range(count)) * length / 4 if form in ("zip", "legacy") else 0.0)


def test_what_is_given_back_is_read_again(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.arange(100_000.0)}, tmp_path / "a")
    stored = read(tmp_path / "a").weights["a.weight"]
    for _ in range(3):
        with looked_at(stored) as tensor:
            assert torch.equal(tensor, torch.arange(100_000.0))


def test_memory_of_its_own_is_never_given_back(tmp_path: Path) -> None:
    torch.save(
        {"a.weight": torch.arange(100_000.0)}, tmp_path / "a", _use_new_zipfile_serialization=False
    )
    stored = read(tmp_path / "a").weights["a.weight"]
    tensor = stored.load()
    release(stored, tensor)
    assert torch.equal(tensor, torch.arange(100_000.0))
