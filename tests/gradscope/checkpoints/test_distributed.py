from __future__ import annotations

import builtins
import functools
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import (
    FileSystemWriter,
    SerializationFormat,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.distributed import DistributedReader
from gradscope.errors import CheckpointError

READER = DistributedReader()


def trained(groups: bool = True) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    head = [*model[1].parameters(), *model[3].parameters()]
    of_groups = [{"params": list(model[0].parameters()), "lr": 0.03}, {"params": head}]
    optimizer = torch.optim.AdamW(of_groups if groups else model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(6, 3)).pow(2).mean().backward()
        optimizer.step()
    return model, optimizer


def save(state: dict[str, Any], folder: Path, **writer: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, storage_writer=FileSystemWriter(folder, **writer), no_dist=True)
    return folder


def read(folder: Path) -> Checkpoint:
    return READER.read(folder, trust_pickle=False)


def read_all(folder: Path) -> None:
    """Reads every tensor, too."""
    checkpoint = read(folder)
    for stored in checkpoint.weights.values():
        stored.load()
    for optimizer in checkpoint.optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, StoredTensor):
                    value.load()


def assert_same(stored: StoredTensor, live: Tensor) -> None:
    loaded = stored.load()
    assert stored.shape == loaded.shape == live.shape
    assert stored.dtype == loaded.dtype == live.dtype
    assert torch.equal(loaded, live.detach())


def assert_optimizer(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> None:
    (found,) = checkpoint.optimizers
    assert found.kind == "AdamW"
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    assert set(found.state) == set(names.values())
    for parameter in parameters:
        name = names[id(parameter)]
        live = optimizer.state[parameter]
        assert found.state[name]["step"] == 3.0
        for key in ("exp_avg", "exp_avg_sq"):
            value = found.state[name][key]
            assert isinstance(value, StoredTensor)
            assert_same(value, live[key])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            settings = found.settings[names[id(parameter)]]
            assert settings["lr"] == group["lr"]
            assert tuple(settings["betas"]) == group["betas"]
            assert settings["weight_decay"] == group["weight_decay"]


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


# --- Chunks -----------------------------------------------------------------------------------


Chunks = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""Offsets and sizes."""


def sharded(folder: Path, whole: Tensor, chunks: Chunks) -> Path:
    """As several processes write it: each chunk in a file of its own."""
    folder.mkdir()
    places: dict[MetadataIndex, _StorageInfo] = {}
    entries = []
    for rank, (offsets, sizes) in enumerate(chunks):
        spans = zip(offsets, sizes, strict=True)
        part = whole[tuple(slice(first, first + size) for first, size in spans)].clone()
        name = f"__{rank}_0.distcp"
        torch.save(part, folder / name)
        length = (folder / name).stat().st_size
        places[MetadataIndex("w", torch.Size(offsets))] = _StorageInfo(name, 0, length)
        entries.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    properties = TensorProperties(whole.dtype)
    entry = TensorStorageMetadata(properties, whole.size(), entries)
    write(folder, Metadata({"w": entry}, {"w": ("w",)}, places, StorageMeta("x"), "1.0.0"))
    return folder


def write(folder: Path, metadata: object) -> None:
    with (folder / ".metadata").open("wb") as file:
        pickle.dump(metadata, file)


def edit(folder: Path, change: Callable[[Metadata], None]) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    write(folder, metadata)


GRIDS: dict[str, Chunks] = {
    "rows": [((0, 0), (4, 6)), ((4, 0), (3, 6))],
    "columns": [((0, 0), (7, 1)), ((0, 1), (7, 5))],
    "both": [
        ((0, 0), (4, 2)),
        ((0, 2), (4, 4)),
        ((4, 0), (3, 2)),
        ((4, 2), (2, 4)),
        ((6, 2), (1, 4)),
    ],
    "a process without a part": [((0, 0), (7, 6)), ((7, 0), (0, 6))],
    "the same twice": [((0, 0), (7, 6)), ((0, 0), (7, 6))],
}


@pytest.mark.parametrize("chunks", GRIDS.values(), ids=GRIDS.keys())
def test_chunks_are_put_together(chunks: Chunks, tmp_path: Path) -> None:
    whole = torch.randn(7, 6)
    checkpoint = read(sharded(tmp_path / "saved", whole, chunks))
    assert_same(checkpoint.weights["w"], whole)


FAULTS: dict[str, Chunks] = {
    "a gap": [((0, 0), (4, 6)), ((5, 0), (2, 6))],
    "a gap at the beginning": [((1, 0), (6, 6))],
    "a gap at the end": [((0, 0), (6, 6))],
    "an overlap": [((0, 0), (4, 6)), ((3, 0), (4, 6))],
    "an overlap that makes up for a gap": [((0, 0), (4, 6)), ((2, 0), (3, 6))],
    "nothing": [],
    "other dimensions": [((0,), (7,))],
}


@pytest.mark.parametrize("chunks", FAULTS.values(), ids=FAULTS.keys())
def test_chunks_that_do_not_fit_are_refused(chunks: Chunks, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "saved", torch.randn(7, 6), chunks)
    with pytest.raises(CheckpointError, match=r"'w'.*chunks do not make up \(7, 6\)"):
        read(folder)


@pytest.mark.parametrize("stored", [torch.randn(4, 5), torch.randn(6, 4), torch.ones(4, 6).long()])
def test_a_chunk_of_another_shape_is_refused(stored: Tensor, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "saved", torch.randn(7, 6), GRIDS["rows"])
    file = folder / "__0_0.distcp"
    torch.save(stored, file)
    place = MetadataIndex("w", torch.Size((0, 0)))
    edit(
        folder,
        lambda metadata: metadata.storage_data.update(
            {place: _StorageInfo(file.name, 0, file.stat().st_size)}
        ),
    )
    with pytest.raises(CheckpointError, match=r"'w'.*the chunk at \(0, 0\)"):
        read_all(folder)


SHARDING = """
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.fsdp import fully_shard

folder, flat = sys.argv[1], sys.argv[2] == "flat"
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=dist.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(6, 3)).pow(2).mean().backward()
    optimizer.step()
sharded = get_state_dict(
    model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat)
)
dcp.save({"model": sharded[0], "optimizer": sharded[1]}, checkpoint_id=folder)
full = get_state_dict(
    model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
)
if dist.get_rank() == 0:
    torch.save(full, folder + ".pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_two_processes_that_share_a_model(form: str, tmp_path: Path) -> None:
    script = tmp_path / "sharding.py"
    script.write_text(SHARDING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "saved"), form],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, optimizer = torch.load(tmp_path / "saved.pt", weights_only=True)

    checkpoint = read(tmp_path / "saved")

    assert len(list((tmp_path / "saved").glob("*.distcp"))) == 2
    assert list(checkpoint.weights) == list(model)
    for name, tensor in model.items():
        assert_same(checkpoint.weights[name], tensor)
    (found,) = checkpoint.optimizers
    assert found.kind == "AdamW"
    assert set(found.state) == set(model)
    for name, state in optimizer["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            value = found.state[name][key]
            assert isinstance(value, StoredTensor)
            assert_same(value, state[key])
        assert found.state[name]["step"] == 3.0
        assert found.settings[name]["lr"] == 0.01


# --- Files that lie ---------------------------------------------------------------------------


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
