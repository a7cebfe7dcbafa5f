"""Reads safetensors files: a JSON header, and behind it all tensors without a gap.

The format (https://huggingface.co/docs/safetensors) says how long the header may be, and that
tensors neither overlap nor leave holes; a file that does not keep to it is refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import torch

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.pickles.plain import Unordered, Unread
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Region, Unreadable, mapped
from gradscope.checkpoints.storage.strided import row_major, strided
from gradscope.errors import CheckpointError

__all__ = ["SafetensorsReader", "load_safetensors"]

_LENGTH: Final = 8
_HEADER_LIMIT: Final = 100_000_000
_METADATA: Final = "__metadata__"
_DIMENSIONS: Final = 64

_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_TORCH: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64",
    "U64": "uint64", "F64": "float64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
"""Names in torch of those that are read."""


class SafetensorsReader(Reader):
    """``.safetensors`` files."""

    form = "safetensors file"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_LENGTH), "little")
                # A length that is a lie is told in words by read(); any other file has another
                # ninth byte, or begins with one that makes its length astronomical.
                return file.read(1) == b"{" and 2 <= length < 1 << 48
        except OSError:
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        return checkpoint_of(load_safetensors(path), str(path), self.form)


def load_safetensors(path: Path) -> Unordered:
    """Its tensors by name; Unread those of a type that torch does not have.

    Whoever writes the format orders them by the size of a number, and then by name.

    Raises:
        CheckpointError: it is damaged or breaks the format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if length > _HEADER_LIMIT:
                _refuse(path, f"its header claims {length:,} bytes, more than {_HEADER_LIMIT:,}")
            if length > size - _LENGTH:
                _refuse(path, f"its header claims {length:,} bytes of a file of {size:,}")
            header = _header(path, file.read(length))
        start = _LENGTH + length
        entries = _entries(path, header, size - start)
        if not entries:
            return Unordered({})
        whole = mapped(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return Unordered({entry.name: entry.stored(whole, start) for entry in entries})


@dataclass(frozen=True)
class _Entry:
    name: str
    type_name: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def stored(self, file: Region, start: int) -> StoredTensor | Unread:
        dtype = getattr(torch, _TORCH.get(self.type_name, ""), None)
        if dtype is None:
            return Unread(f"has the type {self.type_name:.20}, which is not read")
        region = file.part(start + self.begin, self.end - self.begin)
        try:
            return strided(region, dtype, self.shape, row_major(self.shape), 0)
        except Unreadable as error:
            return Unread(f"cannot be read: {error}")


def _header(path: Path, data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        what = str(error) if isinstance(error, _Duplicate) else "its header is not JSON"
        raise CheckpointError(f"{path} is damaged: {what}; save or copy it again.") from error
    if not isinstance(header, dict):
        _refuse(path, "its header is not a JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        _refuse(path, f"its {_METADATA} is more than texts by name")
    return header


class _Duplicate(ValueError):
    """A name is there twice."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Duplicate(f"its header has {twice!r:.100} twice")
    return result


def _entries(path: Path, header: Mapping[str, Any], size: int) -> list[_Entry]:
    entries = [_entry(path, name, told, size) for name, told in header.items()]
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            what = "overlaps another one" if entry.begin < position else "follows a hole"
            _refuse(path, f"its tensor {entry.name!r:.100} {what}")
        position = entry.end
    if position != size:
        _refuse(path, f"its tensors have {position:,} bytes, and {size:,} follow its header")
    return entries


def _entry(path: Path, name: str, told: Any, size: int) -> _Entry:
    def refuse(what: str) -> NoReturn:
        _refuse(path, f"its tensor {name!r:.100} {what}")

    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        refuse("is not described by dtype, shape and data_offsets")
    shape, offsets, type_name = told["shape"], told["data_offsets"], told["dtype"]
    if not _whole(shape) or len(shape) > _DIMENSIONS:
        refuse(f"has the shape {shape!s:.60}")
    if not _whole(offsets) or len(offsets) != 2:
        refuse(f"has the offsets {offsets!s:.60}")
    begin, end = offsets
    if not begin <= end <= size:
        refuse(f"claims the bytes {begin:,} to {end:,} of {size:,}")
    if not isinstance(type_name, str) or not type_name.isprintable():
        refuse("has no type")
    if type_name in _BITS and math.prod(shape) * _BITS[type_name] != 8 * (end - begin):
        refuse(f"of shape {shape!s:.60} and type {type_name} cannot have {end - begin:,} bytes")
    return _Entry(name, type_name, tuple(shape), begin, end)


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values
    )


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{path} is damaged: {what}; save or copy it again.")
