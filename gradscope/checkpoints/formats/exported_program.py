"""Reads the weights of what ``torch.export.save`` wrote; the program itself is not even looked at.

``torch.export.load`` is not used, since it runs what a file tells it to. Three layouts are known:
since torch 2.9 raw bytes and a list of them in JSON; in 2.8 the same archive with pickles of
tensors; before that, four files beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final

import torch

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.pickles.saved_tensors import read_saved
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Region, Unreadable
from gradscope.checkpoints.storage.strided import strided
from gradscope.checkpoints.storage.zip_files import Directory, directory_of, refuse_big_endian
from gradscope.errors import CheckpointError
from gradscope.records import Skipped

__all__ = ["ExportedProgramReader"]

_FORMAT: Final = "archive_format"
_FLAT_PROGRAM: Final = "serialized_exported_program.json"
_FLAT: Final = ("serialized_state_dict.pt", "serialized_constants.pt")
_WEIGHTS: Final = "data/weights/"
_CONSTANTS: Final = "data/constants/"
_MODELS: Final = "models/"

_SCALAR_TYPES: Final = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
    34: torch.uint32,
    35: torch.uint64,
}
"""By ``ScalarType`` of torch/_export/serde/schema.py."""


class ExportedProgramReader(Reader):
    form: ClassVar[str] = "exported program"

    def recognises(self, path: Path) -> bool:
        try:
            directory = directory_of(path)
            if directory is None:
                return False
            return _FLAT_PROGRAM in directory.entries or _root(directory) is not None
        except (OSError, ValueError, CheckpointError):
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        try:
            directory = directory_of(path)
            if directory is None:
                raise Unreadable("it is not a whole zip file")
            program = _Program(path, directory.regions(), _root(directory))
            return program.checkpoint(self.form)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
        except Unreadable as error:
            raise CheckpointError(
                f"{path} cannot be read as an exported program: {error}. Save it again with "
                "torch.export.save(), or save the weights with torch.save(model.state_dict())."
            ) from error


def _root(directory: Directory) -> str | None:
    """The folder that all entries of the archive lie in; None if it is another zip file."""
    for name, entry in directory.entries.items():
        root, _, rest = name.partition("/")
        if rest == _FORMAT:
            is_short = entry.file_size == 3
            return f"{root}/" if is_short and directory.region(name).read() == b"pt2" else None
    return None


class _Program:
    """Its tensors, as they are found."""

    def __init__(self, path: Path, entries: Mapping[str, Region], root: str | None) -> None:
        self._path = path
        self._root = root or ""
        self._entries = entries
        self._weights: dict[str, StoredTensor] = {}
        self._skipped: list[Skipped] = []
        self._first: dict[tuple[object, ...], StoredTensor] = {}

    def checkpoint(self, form: str) -> Checkpoint:
        if _FLAT_PROGRAM in self._entries:
            for name in _FLAT:
                self._add_pickled(name, "")
        else:
            self._add_archive(self._root)
        return checkpoint_of(self._weights, str(self._path), form, skipped=self._skipped)

    def _add_archive(self, root: str) -> None:
        refuse_big_endian(self._entries, root)
        models = [
            name.removeprefix(root + _MODELS).removesuffix(".json")
            for name in self._entries
            if name.startswith(root + _MODELS) and name.endswith(".json")
        ]
        if not models:
            raise Unreadable("it holds compiled code, but no program with weights of its own")
        for model in models:
            prefix = f"{model}." if len(models) > 1 else ""
            for folder, kind in ((_WEIGHTS, "weights"), (_CONSTANTS, "constants")):
                listed = f"{root}{folder}{model}_{kind}_config.json"
                if listed in self._entries:
                    self._add_listed(listed, root + folder, prefix)
                else:
                    self._add_pickled(f"{root}{folder}{model}.pt", prefix)

    def _add_listed(self, listed: str, folder: str, prefix: str) -> None:
        """Tensors whose type, shape and place stand in JSON."""
        try:
            read = json.loads(bytes(self._entries[listed].read()))
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{listed!r:.100} in it is not JSON") from error
        config = read.get("config") if isinstance(read, dict) else None
        if not isinstance(config, dict):
            raise Unreadable(f"{listed!r:.100} in it has no list of tensors")
        for name, item in config.items():
            if not isinstance(item, dict) or type(item.get("path_name")) is not str:
                raise Unreadable(f"the place of {name!r:.100} in it is damaged")
            region = self._entries.get(folder + item["path_name"])
            if region is None:
                raise Unreadable(f"the bytes of {name!r:.100} are not in it")
            if item.get("use_pickle"):
                self._add_object(prefix + name, region)
            else:
                self._add_raw(prefix + name, region, item.get("tensor_meta"))

    def _add_raw(self, name: str, region: Region, described: object) -> None:
        meta = described if isinstance(described, dict) else {}
        dtype = _SCALAR_TYPES.get(meta.get("dtype", 0)) if _is_whole(meta.get("dtype")) else None
        if dtype is None:
            self._skipped.append(Skipped(name, f"its type {meta.get('dtype')!r:.40} is not known"))
            return
        shape, strides = _numbers(meta.get("sizes")), _numbers(meta.get("strides"))
        offset = _numbers([meta.get("storage_offset")])
        if not region.length and shape and 0 not in shape:
            self._skipped.append(Skipped(name, "its numbers were not saved with the program"))
            return
        try:
            stored = strided(region, dtype, shape, strides, offset[0] if offset else None)
        except Unreadable as error:
            raise Unreadable(f"{name!r:.100}: {error}") from error
        place = (region, strides, offset) if region.length else ()
        self._add(name, stored, *place)

    def _add_object(self, name: str, region: Region) -> None:
        """A tensor of a class of its own, or an object of C++."""
        try:
            value = read_saved(region)
        except Unreadable:
            value = None
        if isinstance(value, StoredTensor):
            self._add(name, value)
        else:
            self._skipped.append(Skipped(name, "it is an object that only its own code can read"))

    def _add_pickled(self, entry: str, prefix: str) -> None:
        """Tensors that were saved as one dict."""
        region = self._entries.get(entry)
        if region is None:
            raise Unreadable(f"{entry!r:.100} is not in it")
        if not region.length:
            return
        saved = read_saved(region)
        if not isinstance(saved, dict):
            raise Unreadable(f"{entry!r:.100} in it is no dict of tensors")
        for name, value in saved.items():
            if isinstance(value, StoredTensor) and type(name) is str:
                self._add(prefix + name, value)
            else:
                self._skipped.append(Skipped(f"{prefix}{name!s:.200}", "it is no tensor"))

    def _add(self, name: str, stored: StoredTensor, *place: object) -> None:
        """A tensor; one at a place that is known is the same once more."""
        if name in self._weights:
            raise Unreadable(f"{name!r:.100} is in it twice")
        if place:
            stored = self._first.setdefault((stored.dtype, stored.shape, *place), stored)
        self._weights[name] = stored


def _is_whole(value: object) -> bool:
    return type(value) is int


def _numbers(value: object) -> tuple[int, ...] | None:
    """Sizes as JSON has them: ``[{"as_int": 3}]``; weights have no symbols in theirs."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    numbers = tuple(item.get("as_int") for item in value)
    return numbers if all(type(number) is int for number in numbers) else None
