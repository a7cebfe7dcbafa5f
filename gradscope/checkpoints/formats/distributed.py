"""Reads folders of ``torch.distributed.checkpoint``, in one process and without its reader.

That one unpickles ``.metadata`` freely. Here the metadata is read as data, every chunk is looked
up by file, offset and length, and a tensor that several processes wrote is put together when it is
asked for. Values that are no tensors, such as learning rates, are read at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.contents.nesting import nested
from gradscope.checkpoints.formats.distributed_metadata import (
    Metadata,
    Place,
    TensorEntry,
    read_metadata,
)
from gradscope.checkpoints.formats.tensor_files import is_plain_name
from gradscope.checkpoints.pickles.plain import Unread
from gradscope.checkpoints.pickles.saved_tensors import read_saved
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Region, Unreadable
from gradscope.checkpoints.storage.strided import row_major, strided
from gradscope.checkpoints.storage.tiling import Box, tiles
from gradscope.errors import CheckpointError
from gradscope.records import Skipped

__all__ = ["DistributedReader", "is_part"]

_METADATA: Final = ".metadata"

_PART: Final = re.compile(r"__\d+_\d+\.distcp")

_VALUE_LIMIT: Final = 2**20
"""Bytes of a value that is no tensor; learning rates and names of parameters need far less."""

_HEADER_LIMIT: Final = 100_000_000
"""Bytes of the header of a safetensors file, as safetensors itself has it."""


def is_part(name: str) -> bool:
    """Whether it is the name of what one process writes, which says nothing by itself."""
    return _PART.fullmatch(name) is not None


class DistributedReader(Reader):
    form: ClassVar[str] = "torch.distributed.checkpoint folder"

    def recognises(self, path: Path) -> bool:
        try:
            return path.is_dir() and (path / _METADATA).is_file()
        except OSError:
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        try:
            regions = _Files(path)
            file = regions.whole(_METADATA)
            metadata = read_metadata(bytes(file.read()))
        except Unreadable as error:
            raise CheckpointError(
                f"{path / _METADATA} is not what torch.distributed.checkpoint writes: it has "
                f"{error}. Save the checkpoint again with torch.distributed.checkpoint.save()."
            ) from error
        return _Folder(path, metadata, regions).checkpoint(self.form)


class _Files:
    """The files of a folder, none of which lies outside of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inside = folder.resolve()
        self._found: dict[str, Region] = {}

    def whole(self, name: str) -> Region:
        """All bytes of a file.

        Raises:
            Unreadable: it is not there, not a file, or outside.
        """
        if name not in self._found:
            if not is_plain_name(name):
                raise Unreadable(f"{name!r:.100}, which is no name of a file in the folder")
            try:
                path = (self._folder / name).resolve()
                inside = path.is_relative_to(self._inside) and path.is_file()
                length = path.stat().st_size if inside else 0
            except (OSError, RuntimeError, ValueError) as error:
                raise Unreadable(f"{name!r:.100}, which cannot be read") from error
            if not inside:
                raise Unreadable(f"{name!r:.100}, which is no file of the folder")
            self._found[name] = Region(path, 0, length)
        return self._found[name]

    def at(self, place: Place) -> Region:
        """The bytes at a place.

        Raises:
            Unreadable: they are not all there.
        """
        if place.transforms:
            raise Unreadable("was compressed or changed by an extension, which is not undone here")
        return self.whole(place.file).part(place.offset, place.length)


class _Folder:
    """A checkpoint whose metadata was read."""

    def __init__(self, path: Path, metadata: Metadata, files: _Files) -> None:
        self._path = path
        self._metadata = metadata
        self._files = files
        self._safetensors: dict[tuple[str, int], dict[str, Any]] = {}
        self._used: list[Region] = []

    def checkpoint(self, form: str) -> Checkpoint:
        values: dict[str, Any] = {}
        skipped: list[Skipped] = []
        for key, entry in self._metadata.entries.items():
            try:
                value = self._value(key) if entry is None else self._tensor(key, entry)
            except Unreadable as error:
                raise self._broken(key, error) from error
            if isinstance(value, Unread):
                skipped.append(Skipped(key, value.reason))
            else:
                values[key] = value
        self._check_used_once()
        tree = nested(values, self._metadata.paths)
        return checkpoint_of(tree, str(self._path), form, skipped=skipped)

    def _broken(self, key: str, error: Unreadable) -> CheckpointError:
        return CheckpointError(
            f"{self._path} holds {key!r:.200}, which cannot be read: {error}. Check that all files "
            "of the checkpoint were copied, or save it again."
        )

    def _tensor(self, key: str, entry: TensorEntry) -> StoredTensor:
        """A tensor, of whose chunks only the place and the size are looked at."""
        whole = Box((0,) * len(entry.shape), entry.shape)
        if not whole.volume:
            return StoredTensor(
                entry.shape, entry.dtype, lambda: torch.empty(entry.shape, dtype=entry.dtype)
            )
        if not tiles(entry.chunks, whole):
            raise Unreadable(f"its {len(entry.chunks)} chunks do not make up {entry.shape!s:.100}")
        sources = [(box, self._chunk(key, entry, box)) for box in entry.chunks]

        def load() -> Tensor:
            try:
                return _joined(entry, sources)
            except Unreadable as error:
                raise self._broken(key, error) from error

        return StoredTensor(entry.shape, entry.dtype, load)

    def _chunk(self, key: str, entry: TensorEntry, box: Box) -> Region | StoredTensor:
        """Where a chunk was saved; with safetensors, which has its own list, itself."""
        place = self._metadata.places.get((key, box.offsets))
        if place is None:
            raise Unreadable(f"the chunk at {box.offsets} is in no file")
        region = self._files.at(place)
        if region.length < box.volume * entry.dtype.itemsize:
            raise Unreadable(f"the chunk at {box.offsets} is larger than its {region.length} bytes")
        if bytes(region.part(0, min(4, region.length)).read()) == _ZIP:
            self._used.append(region)
            return region
        header = self._header(place)
        found = header.get(key)
        if not isinstance(found, dict) or found.get("shape") != list(box.sizes):
            raise Unreadable(f"the chunk at {box.offsets} is not where it should be")
        bounds = found.get("data_offsets")
        if (
            not isinstance(bounds, list)
            or len(bounds) != 2
            or not all(type(bound) is int for bound in bounds)
        ):
            raise Unreadable(f"the chunk at {box.offsets} has no place")
        start = place.offset + header[""] + bounds[0]
        used = self._files.whole(place.file).part(start, bounds[1] - bounds[0])
        self._used.append(used)
        return strided(used, entry.dtype, box.sizes, row_major(box.sizes), 0)

    def _header(self, place: Place) -> dict[str, Any]:
        """Of the safetensors file that begins at a place; its own length under ``""``."""
        known = (place.file, place.offset)
        if known not in self._safetensors:
            whole = self._files.whole(place.file)
            length = int.from_bytes(whole.part(place.offset, 8).read(), "little")
            if length > _HEADER_LIMIT:
                raise Unreadable("it was written neither by torch.save nor by safetensors")
            try:
                header = json.loads(bytes(whole.part(place.offset + 8, length).read()))
            except (ValueError, RecursionError) as error:
                raise Unreadable("its safetensors header is damaged") from error
            if not isinstance(header, dict):
                raise Unreadable("its safetensors header is damaged")
            self._safetensors[known] = {**header, "": 8 + length}
        return self._safetensors[known]

    def _value(self, key: str) -> Any:
        """A number, a text, or a list of them."""
        place = self._metadata.places.get((key, None))
        if place is None:
            raise Unreadable("it is in no file")
        region = self._files.at(place)
        if region.length > _VALUE_LIMIT:
            return Unread(f"has {region.length:,} bytes that are not of a tensor")
        self._used.append(region)
        value = read_saved(region)
        if _is_plain(value, region.length):
            return value
        return Unread("is an object that only its own code can read")

    def _check_used_once(self) -> None:
        """Two chunks in the same bytes would let a small file ask for much memory."""
        end: dict[Path, int] = {}
        for region in sorted(self._used, key=lambda region: region.offset):
            if region.offset < end.get(region.path, 0):
                raise CheckpointError(
                    f"{region.path} has two chunks in the bytes at {region.offset}, which "
                    "torch.distributed.checkpoint never writes; save the checkpoint again."
                )
            end[region.path] = region.offset + region.length


def _joined(entry: TensorEntry, sources: Iterable[tuple[Box, Region | StoredTensor]]) -> Tensor:
    """The tensor, from chunks that are known to make it up."""
    whole: Tensor | None = None
    for box, source in sources:
        chunk = read_saved(source) if isinstance(source, Region) else source
        if (
            not isinstance(chunk, StoredTensor)
            or chunk.shape != box.sizes
            or chunk.dtype != entry.dtype
        ):
            raise Unreadable(f"the chunk at {box.offsets} is not of {box.sizes} {entry.dtype}")
        part = chunk.load()
        if box.sizes == entry.shape:
            return part
        if whole is None:
            whole = torch.empty(entry.shape, dtype=entry.dtype)
        ends = zip(box.offsets, box.sizes, strict=True)
        whole[tuple(slice(offset, offset + size) for offset, size in ends)] = part
    if whole is None:
        raise Unreadable("it has no chunks")
    return whole


def _is_plain(value: Any, length: int) -> bool:
    """Whether a value was read whole.

    Raises:
        Unreadable: it stands for far more values than it has bytes, as lists that are shared can.
    """
    budget, rest = _SHARED * length, [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict | list):
            budget -= len(item)
            if budget < 0:
                raise Unreadable("it is nested deeper than any state dict")
            rest.extend(item.values() if isinstance(item, dict) else item)
        elif not (item is None or isinstance(item, str | int | float | StoredTensor)):
            return False
    return True


_SHARED: Final = 16
"""Values that one byte may stand for; a pair that is shared takes two bytes each time."""

_ZIP: Final = b"PK\3\4"
