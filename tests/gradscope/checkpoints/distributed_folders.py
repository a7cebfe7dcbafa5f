"""Folders of ``torch.distributed.checkpoint`` that tests write and read."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import (
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.formats.distributed import DistributedReader

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
