from __future__ import annotations

import builtins
import functools
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict import get_state_dict

from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.distributed_folders import (
    edit,
    read,
    read_all,
    save,
    sharded,
    trained,
    write,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, optimizer = trained()
    of_model, of_optimizer = get_state_dict(model, optimizer)
    state = {"model": of_model, "optimizer": of_optimizer}
    return save(state, tmp_path_factory.mktemp("sound") / "saved")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def move(folder: Path, **changed: Any) -> None:
    """Changes where a tensor's bytes are said to lie."""

    def change(metadata: Metadata) -> None:
        for index, place in metadata.storage_data.items():
            if index.fqn == "model.0.weight":
                vars(place).update(changed)

    edit(folder, change)


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": 10**15},
        {"offset": 2**63},
        {"offset": -1},
        {"offset": 1.5},
        {"length": 10**15},
        {"length": -1},
        {"length": 0},
        {"length": 20},
        {"length": None},
        {"offset": 0, "length": 10**6},
    ],
    ids=str,
)
def test_a_place_outside_the_file_is_refused(changed: dict[str, Any], folder: Path) -> None:
    move(folder, **changed)
    with pytest.raises(CheckpointError):
        read_all(folder)


@pytest.mark.parametrize("offset", [1, 100, 1500])
def test_a_place_beside_the_tensor_is_refused(offset: int, folder: Path) -> None:
    move(folder, offset=offset)
    with pytest.raises(CheckpointError):
        read_all(folder)


@pytest.mark.parametrize(
    "name",
    ["../secret.distcp", "/etc/passwd", "..", ".", "", "sub/x.distcp", "a\\b", "a\0b", 7, None],
)
def test_a_file_elsewhere_is_refused(name: Any, folder: Path) -> None:
    (folder.parent / "secret.distcp").write_bytes((folder / "__0_0.distcp").read_bytes())
    if name == "/etc/passwd":
        name = str(folder.parent / "secret.distcp")
    move(folder, relative_path=name)
    with pytest.raises(CheckpointError):
        read_all(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    inside = folder / "__0_0.distcp"
    inside.rename(folder.parent / "secret.distcp")
    inside.symlink_to(folder.parent / "secret.distcp")
    with pytest.raises(CheckpointError, match="no file of the folder"):
        read_all(folder)


def test_metadata_that_is_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / ".metadata").rename(folder.parent / "secret")
    (folder / ".metadata").symlink_to(folder.parent / "secret")
    with pytest.raises(CheckpointError, match="no file of the folder"):
        read(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    os.mkfifo(folder / "__0_0.distcp")
    with pytest.raises(CheckpointError, match="no file of the folder"):
        read(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"'__0_0.distcp', which is no file of the folder"):
        read(folder)


@pytest.mark.parametrize(
    "size", [(10**15, 3), (2**62, 2**62), (10**15,), (5, 3, 1), (-1, 3), (5,), ()], ids=str
)
def test_a_size_that_lies_is_refused(size: tuple[int, ...], folder: Path) -> None:
    def change(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata["model.0.weight"]
        assert isinstance(entry, TensorStorageMetadata)
        entry.size = torch.Size(size)

    edit(folder, change)
    with pytest.raises(CheckpointError):
        read_all(folder)


@pytest.mark.parametrize("size", [(10**15, 3), (2**40, 2**40), (50, 3)], ids=str)
def test_a_chunk_larger_than_its_bytes_is_refused(size: tuple[int, ...], folder: Path) -> None:
    def change(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata["model.0.weight"]
        assert isinstance(entry, TensorStorageMetadata)
        entry.size = entry.chunks[0].sizes = torch.Size(size)

    edit(folder, change)
    with pytest.raises(CheckpointError):
        read_all(folder)


def test_bytes_that_two_chunks_share_are_refused(tmp_path: Path) -> None:
    """A file of a million chunks in the same bytes would become a tensor of any size."""
    folder = sharded(tmp_path / "saved", torch.randn(8, 6), [((0, 0), (4, 6)), ((4, 0), (4, 6))])

    def change(metadata: Metadata) -> None:
        for place in metadata.storage_data.values():
            place.relative_path = "__0_0.distcp"

    edit(folder, change)
    with pytest.raises(CheckpointError, match="two chunks in the bytes at 0"):
        read(folder)


def test_thousands_of_chunks_are_looked_at_in_time(tmp_path: Path) -> None:
    rows = [ChunkStorageMetadata(torch.Size((row,)), torch.Size((2,))) for row in range(5_000)]
    entry = TensorStorageMetadata(TensorProperties(), torch.Size((5_001,)), rows)
    write(tmp_path, Metadata({"w": entry}, None, {}))
    with pytest.raises(CheckpointError, match="5000 chunks do not make up"):
        read(tmp_path)


def test_a_compressed_chunk_is_refused(folder: Path) -> None:
    move(folder, transform_descriptors=["zstd"])
    with pytest.raises(CheckpointError, match="compressed"):
        read(folder)


@pytest.mark.parametrize("twentieth", range(20))
@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_a_file_that_was_cut_is_refused(name: str, twentieth: int, folder: Path) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) * twentieth // 20])
    with pytest.raises(CheckpointError):
        read_all(folder)


def test_a_file_that_is_cut_later_is_refused(folder: Path) -> None:
    checkpoint = read(folder)
    (folder / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError):
        checkpoint.weights["0.weight"].load()


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"PK\3\4", b"\x80\x04.", b"hello", b"\x80\x04K"]
)
def test_metadata_that_is_something_else_is_refused(data: bytes, folder: Path) -> None:
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"\.metadata is not what"):
        read(folder)


def test_damaged_bytes_are_read_or_refused(folder: Path) -> None:
    random.seed(0)
    for name in (".metadata", "__0_0.distcp"):
        sound = (folder / name).read_bytes()
        for _ in range(50):
            data = bytearray(sound)
            for _ in range(random.randrange(1, 4)):
                data[random.randrange(len(data))] = random.randrange(256)
            (folder / name).write_bytes(bytes(data))
            try:
                read_all(folder)
            except CheckpointError:
                continue
        (folder / name).write_bytes(sound)


# --- Pickles that run something ---------------------------------------------------------------


class Gadget:
    """Makes a file if it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def gadgets(canary: str) -> dict[str, Gadget]:
    touch = f"touch {canary}"
    code = f"__import__('pathlib').Path({canary!r}).touch()"
    return {
        "os.system": Gadget(os.system, touch),
        "eval": Gadget(eval, code),
        "exec": Gadget(exec, code),
        "Popen": Gadget(subprocess.Popen, ["touch", canary]),
        "torch.hub": Gadget(torch.hub.load_state_dict_from_url, f"file://{canary}"),
        "partial": Gadget(functools.partial, os.system, touch),
        "getattr": Gadget(getattr, Gadget(getattr, os, "path"), "exists"),
        "import": Gadget(builtins.__import__, "antigravity"),
        "bytearray": Gadget(bytearray, 10**12),
        "torch.load": Gadget(torch.load, canary),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", list(gadgets("")))
def test_nothing_in_metadata_runs(
    kind: str, protocol: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = folder.parent / "canary"
    gadget = gadgets(str(canary))[kind]
    if kind == "getattr":
        # A module cannot be pickled by itself.
        monkeypatch.setattr(gadget.reduced[1][0], "reduced", (getattr, ("os", "path")))
    sound = pickle.loads((folder / ".metadata").read_bytes())
    places: list[object] = [
        gadget,
        Metadata(sound.state_dict_metadata, {"w": gadget}, sound.storage_data),
        Metadata(sound.state_dict_metadata, None, sound.storage_data, gadget),  # type: ignore[arg-type]
        Metadata({"w": gadget}, None, sound.storage_data),  # type: ignore[dict-item]
        Metadata({"w": BytesStorageMetadata()}, None, {gadget: gadget}),
    ]
    for place in places:
        with (folder / ".metadata").open("wb") as file:
            pickle.dump(place, file, protocol)
        with pytest.raises(CheckpointError):
            read_all(folder)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["os.system", "eval", "bytearray", "partial"])
@pytest.mark.parametrize("key", ["model.0.weight", "optimizer.param_groups.0.lr"])
def test_nothing_in_a_chunk_runs(kind: str, key: str, folder: Path) -> None:
    canary = folder.parent / "canary"
    file = folder / "__9_0.distcp"
    torch.save(gadgets(str(canary))[kind], file)

    def change(metadata: Metadata) -> None:
        for index, place in metadata.storage_data.items():
            if index.fqn == key:
                place.relative_path, place.offset = file.name, 0
                place.length = file.stat().st_size

    edit(folder, change)
    if key == "model.0.weight":
        with pytest.raises(CheckpointError, match=r"model\.0\.weight"):
            read_all(folder)
    else:
        assert any(skipped.what == key for skipped in read(folder).skipped)
    assert not canary.exists()


def test_lists_in_lists_without_end_are_refused(folder: Path) -> None:
    """Each holds the one before ten times: 60 of them would have 10**60 items."""
    file = folder / "__9_0.distcp"
    value: Any = "x"
    for _ in range(60):
        value = [value] * 10
    torch.save(value, file)

    def change(metadata: Metadata) -> None:
        for index, place in metadata.storage_data.items():
            if index.fqn == "optimizer.param_groups.0.lr":
                place.relative_path, place.offset = file.name, 0
                place.length = file.stat().st_size

    edit(folder, change)
    with pytest.raises(CheckpointError, match="nested"):
        read(folder)
