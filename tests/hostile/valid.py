"""Small valid checkpoints of every format, of one training, which others then damage."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import save

__all__ = ["FORMS", "exported", "safetensors", "zipped"]


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """A zip of the same bytes each time."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return path


def safetensors(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    """A file with any header: as bytes, or an object that becomes JSON."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(told) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + told + data)
    return path


def exported(
    path: Path, sizes: Any = (4,), strides: Any = (1,), offset: Any = 0, **changes: bytes | None
) -> Path:
    """What torch.export.save writes, as far as it is read; entries changed to None are left out."""

    def numbers(values: Any) -> Any:
        return [{"as_int": value} for value in values]

    meta = {
        "dtype": 7,
        "sizes": numbers(sizes),
        "strides": numbers(strides),
        "storage_offset": {"as_int": offset},
    }
    config = {"w.weight": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta}}
    entries: dict[str, bytes | None] = {
        "net/archive_format": b"pt2",
        "net/byteorder": b"little",
        "net/models/model.json": b"{}",
        "net/data/weights/model_weights_config.json": json.dumps({"config": config}).encode(),
        "net/data/weights/weight_0": bytes(16),
        "net/data/constants/model_constants_config.json": b'{"config": {}}',
    }
    changed = entries | {f"net/{name}": data for name, data in changes.items()}
    return zipped(path, {name: data for name, data in changed.items() if data is not None})


def training() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(6, 3)).square().mean().backward()
            optimizer.step()
    return {"net": net, "model": net.state_dict(), "optimizer": optimizer.state_dict()}


def _zip(path: Path) -> Path:
    saved = training()
    torch.save({"model": saved["model"], "optimizer": saved["optimizer"], "epoch": 3}, path)
    return path


def _legacy(path: Path) -> Path:
    saved = training()
    state = {"model": saved["model"], "optimizer": saved["optimizer"], "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def _module(path: Path) -> Path:
    torch.save(training()["net"], path)
    return path


def _safetensors(path: Path) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in training()["model"].items():
        if tensor.dtype == torch.float32:
            part = tensor.numpy().tobytes()
            bounds = [len(data), len(data) + len(part)]
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": bounds}
            data += part
    return safetensors(path, header, data)


def _sharded(folder: Path) -> Path:
    """Its second shard is of torch.save."""
    folder.mkdir()
    state = training()["model"]
    first = dict(list(state.items())[:2])
    torch.save(first, folder / "pytorch_model-00001-of-00002.bin")
    second = {name: tensor for name, tensor in state.items() if name not in first}
    torch.save(second, folder / "pytorch_model-00002-of-00002.bin")
    places = {name: f"pytorch_model-0000{1 if name in first else 2}-of-00002.bin" for name in state}
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "pytorch_model.bin.index.json").write_text(index)
    (folder / "config.json").write_text("{}")
    return folder


def _trainer(folder: Path) -> Path:
    folder.mkdir()
    _safetensors(folder / "model.safetensors")
    torch.save(training()["optimizer"], folder / "optimizer.pt")
    torch.save({"last_epoch": 3}, folder / "scheduler.pt")
    (folder / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text('{"global_step": 3}')
    return folder


def _accelerate(folder: Path) -> Path:
    folder.mkdir()
    _safetensors(folder / "model.safetensors")
    torch.save(training()["optimizer"], folder / "optimizer.bin")
    torch.save({"last_epoch": 3}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": 3}))
    return folder


def _distributed(folder: Path) -> Path:
    saved = training()
    state = {"model": saved["model"], "optimizer": saved["optimizer"], "note": "hello"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(state, checkpoint_id=folder, no_dist=True)
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "zip": _zip,
    "legacy": _legacy,
    "module": _module,
    "safetensors": _safetensors,
    "exported": exported,
    "sharded": _sharded,
    "trainer": _trainer,
    "accelerate": _accelerate,
    "distributed": _distributed,
}
"""Each writes a file or folder at a path, and returns it."""
