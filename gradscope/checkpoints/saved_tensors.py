"""Reads what ``torch.save`` wrote inside another file, without calling anything that it names.

The pickle is read as data (see inert_pickle), and tensors are taken from the bytes that it points
to, once they are asked for and once it is sure that the bytes are there.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.inert_pickle import Called, Global, NotInert, Persistent, read_inert
from gradscope.errors import CheckpointError

__all__ = [
    "DTYPES",
    "STORAGES",
    "Region",
    "Unreadable",
    "read_saved",
    "regions_of_zip",
    "strided",
    "whole_numbers",
]

_LOCAL_HEADER: Final = 30
"""Bytes of a zip entry's own header before its name (APPNOTE.TXT, 4.3.7)."""

_DEPTH: Final = 100
"""How deep dicts and lists may lie in each other; state dicts have less than ten levels."""

_SHARED: Final = 16
"""Values that one byte of a pickle may stand for: lists of lists that are shared grow without end,
while a pair such as ``betas``, which groups of parameters share, takes two bytes each time."""


class Unreadable(ValueError):
    """Why something cannot be read, as a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a file, from ``offset``; that they are there was checked."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytearray:
        """All of them, in memory that is the caller's own.

        Raises:
            CheckpointError: the file has become shorter since, or cannot be read.
        """
        data = bytearray(self.length)
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                count = file.readinto(data)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read ({error.strerror}).") from error
        if count != self.length:
            raise CheckpointError(
                f"{self.path} ends before byte {self.offset + self.length}, which was there when "
                "it was opened; scan it when nothing writes to it."
            )
        return data

    def part(self, offset: int, length: int) -> Region:
        """Some of them.

        Raises:
            Unreadable: they are not all there.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            raise Unreadable(f"{length} bytes at {offset} lie outside of {self.length}")
        return Region(self.path, self.offset + offset, length)


class _RegionFile(io.RawIOBase):
    """A part of a file, which looks like a file to zipfile."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._file = region.path.open("rb")
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._region.length}
        position = start[whence] + offset
        if position < 0:
            raise OSError("a position before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._region.length - self._position))
        self._file.seek(self._region.offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def regions_of_zip(region: Region) -> dict[str, Region]:
    """Where the entries of a zip lie, by name; torch compresses none of those that hold tensors.

    Raises:
        Unreadable: it is no zip, or damaged, or an entry is compressed, twice there or outside.
    """
    found: dict[str, Region] = {}
    try:
        with _RegionFile(region) as raw, io.BufferedReader(raw) as file:
            for entry in zipfile.ZipFile(file).infolist():
                if entry.filename in found:
                    raise Unreadable(f"its entry {entry.filename!r:.100} is there twice")
                if entry.compress_type != zipfile.ZIP_STORED:
                    continue
                file.seek(entry.header_offset)
                header = file.read(_LOCAL_HEADER)
                if len(header) != _LOCAL_HEADER or header[:4] != b"PK\3\4":
                    raise Unreadable(f"its entry {entry.filename!r:.100} has no header")
                name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(
                    header[28:30], "little"
                )
                offset = entry.header_offset + _LOCAL_HEADER + name_and_extra
                found[entry.filename] = region.part(offset, entry.file_size)
    except Unreadable:
        raise
    except Exception as error:
        # zipfile lets through what struct, codecs and arithmetic make of damaged headers.
        raise Unreadable("it is not a whole zip file") from error
    return found


def read_saved(region: Region) -> Any:
    """The object that was saved: dicts, lists, numbers and texts, and StoredTensor for tensors.

    Tuples become lists. What is none of these stays the note of a call that was not made.

    Raises:
        Unreadable: it was not written by torch.save, or is damaged.
    """
    entries = regions_of_zip(region)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Unreadable("it was not written by torch.save")
    root = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{root}byteorder")
    if order is not None and order.length < 10 and bytes(order.read()) != b"little":
        raise Unreadable("its numbers are big-endian")
    data = bytes(entries[pickles[0]].read())
    try:
        return _Tree(entries, f"{root}data/", budget=_SHARED * len(data)).plain(read_inert(data))
    except NotInert as error:
        raise Unreadable(f"it holds {error}") from error


class _Tree:
    """Copies what a pickle holds, with tensors in place of the calls that would have made them."""

    def __init__(self, entries: Mapping[str, Region], data: str, budget: int) -> None:
        self._entries = entries
        self._data = data
        self._budget = budget
        self._tensors: dict[tuple[Any, ...], StoredTensor] = {}

    def plain(self, value: Any, depth: int = 0) -> Any:
        self._budget -= 1
        if depth > _DEPTH or self._budget < 0:
            raise Unreadable("it is nested deeper than any state dict")
        if isinstance(value, Called):
            return self._tensor(value) if _is_call(value, _REBUILDERS) else value
        if type(value) is dict:
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return [self.plain(item, depth + 1) for item in value]
        return value

    def _tensor(self, called: Called) -> StoredTensor:
        """The tensor that would have been rebuilt; for the same view of a storage the same."""
        while called.function in _PARAMETERS:
            inner = called.arguments[:1] if type(called.arguments) is tuple else ()
            if not inner or not _is_call(inner[0]):
                raise Unreadable("it holds a damaged parameter")
            called = inner[0]
        arguments = called.arguments
        if called.function not in (_TENSOR, _TENSOR_WITH_TYPE):
            raise Unreadable("it holds a parameter of another kind")
        if type(arguments) is not tuple or len(arguments) < 4:
            raise Unreadable("it holds a damaged tensor")
        storage, offset, shape, strides = arguments[:4]
        identity = storage.identity if isinstance(storage, Persistent) else None
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise Unreadable("it holds a tensor without a storage")
        if called.function == _TENSOR_WITH_TYPE:
            named = arguments[6] if len(arguments) > 6 else None
            dtype = DTYPES.get(named) if isinstance(named, Global) else None
        else:
            dtype = STORAGES.get(identity[1]) if isinstance(identity[1], Global) else None
        if dtype is None:
            raise Unreadable("it holds a tensor of a type that is not known")
        region = (
            self._entries.get(f"{self._data}{identity[2]}") if type(identity[2]) is str else None
        )
        if region is None:
            raise Unreadable("it holds a tensor whose numbers are not in it")
        sizes, steps = whole_numbers(shape), whole_numbers(strides)
        key = (region, dtype, sizes, steps, offset if type(offset) is int else None)
        if key not in self._tensors:
            self._tensors[key] = strided(region, dtype, sizes, steps, offset)
        return self._tensors[key]


def _is_call(value: object, of: Container[Global] | None = None) -> bool:
    """Whether it is the call of something that has a name, and of certain names."""
    if not isinstance(value, Called) or not isinstance(value.function, Global):
        return False
    return of is None or value.function in of


def strided(
    region: Region, dtype: torch.dtype, shape: object, strides: object, offset: object
) -> StoredTensor:
    """A tensor whose storage is a region.

    Args:
        region: of the file.
        dtype: of its elements.
        shape: which has no more elements than the region.
        strides: in elements.
        offset: of its first element, in elements.

    Raises:
        Unreadable: it does not lie in the region, or has more elements than are stored.
    """
    sizes, steps = whole_numbers(shape), whole_numbers(strides)
    if sizes is None or steps is None or len(sizes) != len(steps) or type(offset) is not int:
        raise Unreadable("a tensor's shape is damaged")
    count = math.prod(sizes)
    if math.prod(max(size, 1) for size in sizes) >= _SIZE_LIMIT:
        raise Unreadable(f"a tensor's shape {sizes!s:.100} is damaged")
    if not count:
        return StoredTensor(sizes, dtype, lambda: torch.empty(sizes, dtype=dtype))
    span = 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if offset < 0 or (offset + span) * dtype.itemsize > region.length or count > span:
        raise Unreadable(
            f"a tensor of shape {sizes!s:.100} is larger than the {region.length} bytes of it"
        )
    used = region.part(offset * dtype.itemsize, span * dtype.itemsize)
    return StoredTensor(
        sizes, dtype, lambda: torch.frombuffer(used.read(), dtype=dtype).as_strided(sizes, steps)
    )


def whole_numbers(value: object) -> tuple[int, ...] | None:
    """Sizes or offsets: a tuple, a list or a torch.Size of whole numbers from 0; None if not."""
    if isinstance(value, Called) and value.function == _SIZE:
        inner = value.arguments
        value = inner[0] if type(inner) is tuple and len(inner) == 1 else None
    if not isinstance(value, tuple | list) or len(value) > _DIMENSIONS:
        return None
    if not all(type(number) is int and 0 <= number < _SIZE_LIMIT for number in value):
        return None
    return tuple(value)


_DIMENSIONS: Final = 64
"""More than torch has in any tensor."""

_SIZE_LIMIT: Final = 2**63
_SIZE: Final = Global("torch", "Size")
_TENSOR: Final = Global("torch._utils", "_rebuild_tensor_v2")
_TENSOR_WITH_TYPE: Final = Global("torch._utils", "_rebuild_tensor_v3")
_PARAMETERS: Final = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)
_REBUILDERS: Final = (_TENSOR, _TENSOR_WITH_TYPE, *_PARAMETERS)
DTYPES: Final = {
    Global("torch", str(value).removeprefix("torch.")): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and value.itemsize and not str(value).startswith("torch.q")
}
STORAGES: Final = {
    Global("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
    }.items()
}
