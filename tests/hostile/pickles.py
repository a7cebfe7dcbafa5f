"""Puts pickles that would run something wherever a checkpoint has a pickle."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.hostile.gadgets import WAYS, Call, encoded, tensor, text
from tests.hostile.valid import FORMS, exported, zipped

__all__ = ["around", "distributed", "legacy", "pickles", "state_dict"]

Write = Callable[[Path], Path]

_IN_EVERY_WAY = ("posix.system", "subprocess.Popen", "builtins.eval", "pickle.loads", "torch.load")


def state_dict(value: bytes, protocol: int = 2) -> bytes:
    """A pickle of a dict with one good tensor, beside which the value stands."""
    head = b"\x80" + bytes([protocol]) + b"}" + text("w.weight") + tensor() + b"s"
    return head + text("extra") + value + b"s."


def around(data: bytes, **more: bytes) -> dict[str, bytes]:
    """The entries of a zip of torch.save with a pickle of one's own."""
    entries = {"a/data.pkl": data, "a/byteorder": b"little", "a/data/0": bytes(16)}
    return {**entries, "a/version": b"3\n", **more}


@cache
def _legacy_head() -> bytes:
    stream = io.BytesIO()
    torch.save(1, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    return data[: data.index(b".", data.index(b"little_endian")) + 1]


def legacy(data: bytes) -> bytes:
    """A file of torch before 1.6, with the memory of tensor ``0``."""
    # The keys, and behind them the length and the bytes of each memory.
    keys = pickle.dumps(["0"], protocol=2)
    return _legacy_head() + data + keys + (4).to_bytes(8, "little") + bytes(16)


def in_zip(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, entry in around(data).items():
            archive.writestr(zipfile.ZipInfo(name), entry)
    return stream.getvalue()


def distributed(
    folder: Path, chunk: bytes, file: str = "__0_0.distcp", offset: int = 0, length: int = -1
) -> Path:
    """A folder of torch.distributed.checkpoint with one tensor of four numbers.

    Args:
        folder: where to write it.
        chunk: all bytes of ``__0_0.distcp``.
        file: where ``.metadata`` says that the tensor lies.
        offset: and from where.
        length: and how long; by default, all of it.
    """
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(chunk)
    size = torch.Size([4])
    piece = ChunkStorageMetadata(torch.Size([0]), size)
    described = TensorStorageMetadata(TensorProperties(), size, [piece])
    length = len(chunk) if length < 0 else length
    place = _StorageInfo(file, offset, length)
    metadata = Metadata(
        {"w.weight": described},
        planner_data={"w.weight": ("w.weight",)},
        storage_data={MetadataIndex("w.weight", torch.Size([0]), 0): place},
    )
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def _written(data: bytes) -> Write:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def _in_form(form: str, file: str, data: bytes) -> Write:
    """A good folder, in which one file is replaced."""

    def write(path: Path) -> Path:
        whole = FORMS[form](path)
        (whole / file).write_bytes(data)
        return whole

    return write


def _zip(entries: dict[str, bytes]) -> Write:
    return lambda path: zipped(path, entries)


def pickles(calls: Mapping[str, Call]) -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it."""
    for family, gadget in calls.items():
        if family in _IN_EVERY_WAY:
            continue
        evil = state_dict(encoded(gadget))
        yield f"{family} by REDUCE in a zip", False, _zip(around(evil))
        yield f"{family} by REDUCE in an old file", False, _written(legacy(evil))
    for family in _IN_EVERY_WAY:
        for way, write in WAYS.items():
            evil = state_dict(write(calls[family]))
            yield f"{family} by {way} in a zip", False, _zip(around(evil))
            yield f"{family} by {way} in an old file", False, _written(legacy(evil))
            evil = state_dict(write(calls[family]), protocol=4)
            yield f"{family} by {way} with protocol 4", False, _zip(around(evil))
    for family in ("posix.system", "builtins.eval"):
        yield from _everywhere(family, calls[family])


def _everywhere(family: str, gadget: Call) -> Iterator[tuple[str, bool, Write]]:
    evil = state_dict(encoded(gadget))
    whole = b"\x80\x02" + encoded(gadget) + b"."
    saved, alone = in_zip(evil), b"\x80\x02" + encoded(gadget) + b"."
    good = state_dict(b"N")
    identity = ("storage", gadget, "0", "cpu", 4)
    hooks: dict[str, bytes] = {
        "as the whole object": whole,
        "as a key": b"\x80\x02}" + encoded(gadget) + b"Ns.",
        "as a persistent id": b"\x80\x02}" + text("w") + encoded(identity) + b"Qs.",
        "as hooks of a tensor": good[:-1] + encoded(gadget) + b"b.",
        "thrown away": b"\x80\x02" + encoded(gadget) + b"0" + good[2:],
        "behind the end": good + whole,
        "with protocol 0": whole[2:],
        "with protocol 5": b"\x80\x05" + whole[2:],
        "with protocol 255": b"\x80\xff" + whole[2:],
        "in a frame": b"\x80\x04\x95" + len(whole).to_bytes(8, "little") + whole[2:],
        "with a frame that lies": b"\x80\x04\x95" + b"\xff" * 8 + whole[2:],
    }
    for how, data in hooks.items():
        # What follows the end of a pickle nobody reads.
        yield f"{family} {how} in a zip", how == "behind the end", _zip(around(data))
        yield f"{family} {how} in an old file", False, _written(legacy(data))
    places: dict[str, Write] = {
        "as a bare pickle": _written(alone),
        "in a zip in a zip": _zip(around(saved)),
        "in a zip in a tensor that is none": _zip(around(state_dict(saved))),
        "in constants.pkl": _zip({**around(evil), "a/constants.pkl": alone}),
        "in a second data.pkl": _zip({**around(good), "b/data.pkl": evil}),
        "in a deeper data.pkl": _zip({**around(good), "a/b/data.pkl": evil}),
        "in the key of version": _zip({**around(evil), ".data/serialization_id": b"1"}),
        "in code of TorchScript": _zip(
            {**around(evil), "a/constants.pkl": alone, "a/code/__torch__.py": b"import os"}
        ),
        "in .metadata": _in_form("distributed", ".metadata", alone),
        "in .metadata with weights": _in_form("distributed", ".metadata", evil),
        "in a chunk": lambda path: distributed(path, saved),
        "in an old chunk": lambda path: distributed(path, legacy(evil)),
        "in a bare chunk": lambda path: distributed(path, alone),
        "in optimizer.pt": _in_form("trainer", "optimizer.pt", saved),
        "in an old optimizer.pt": _in_form("trainer", "optimizer.pt", legacy(evil)),
        "in a bare optimizer.pt": _in_form("trainer", "optimizer.pt", alone),
        "in optimizer.bin": _in_form("accelerate", "optimizer.bin", saved),
        "in a shard": _in_form("sharded", "pytorch_model-00002-of-00002.bin", saved),
        "in a bare shard": _in_form("sharded", "pytorch_model-00002-of-00002.bin", alone),
        "in the header of legacy": _written(alone + evil),
        "in the keys of legacy": _written(_legacy_head() + good + alone),
        "in the list of .pt2": lambda path: exported(
            path, **{"models/model.json": alone, "data/weights/model_weights_config.json": saved}
        ),
    }
    for how, write in places.items():
        yield f"{family} {how}", False, write
    # Read as data, with a note that it was left out: see ExportedProgramReader.
    listed = "data/weights/model_weights_config.json"
    flat = {"serialized_exported_program.json": b"{}", "serialized_constants.pt": b""}
    left_out: dict[str, Write] = {
        "in weights of .pt2": lambda path: exported(
            path, **{listed: None, "data/weights/model.pt": saved}
        ),
        "in flat weights of .pt2": _zip({**flat, "serialized_state_dict.pt": saved}),
    }
    for how, write in left_out.items():
        yield f"{family} {how}", True, write
    beside = (
        ("trainer", "scheduler.pt", saved),
        ("trainer", "rng_state.pth", saved),
        ("trainer", "training_args.bin", alone),
        ("accelerate", "scheduler.bin", saved),
        ("accelerate", "sampler.bin", alone),
        ("accelerate", "random_states_0.pkl", alone),
        ("accelerate", "custom_checkpoint_0.pkl", alone),
    )
    for form, file, data in beside:
        # Nothing in these is of use, so that they are not even looked at.
        yield f"{family} in {file} of {form}", True, _in_form(form, file, data)
