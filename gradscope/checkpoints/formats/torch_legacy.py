"""Reads what torch.save wrote before torch 1.6: pickles one after another, then all numbers."""

from __future__ import annotations

import mmap
import tarfile
from pathlib import Path
from typing import Any, Final

import torch

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.pickles.inert_pickle import NotInert, Pickle, read_pickle
from gradscope.checkpoints.pickles.known_names import ITEM_SIZES, KNOWN
from gradscope.checkpoints.pickles.plain import made_plain
from gradscope.checkpoints.pickles.saved_tensors import plain_tree, storage_of
from gradscope.checkpoints.pickles.unpickling import explained, unpickled
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Region, Unreadable, mapped
from gradscope.errors import CheckpointError

__all__ = ["TorchLegacyReader", "load_legacy", "pickle_after_others"]

_FIRST: Final = 64
"""Bytes that the pickle of the number that tells the format has at most, of any protocol."""

_PICKLES_BEFORE: Final = 3
"""That number, the version of the format, and what system wrote it."""


class TorchLegacyReader(Reader):
    """Files of torch 1.5 and before, and of ``_use_new_zipfile_serialization=False``."""

    form = "torch.save file of the old format"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                first = read_pickle(file.read(_FIRST), 0, frozenset()).value
                return type(first) is int and first == torch.serialization.MAGIC_NUMBER
        except (OSError, NotInert):
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        return checkpoint_of(load_legacy(path, trust_pickle), str(path), self.form)


def load_legacy(path: Path, trust_pickle: bool) -> Any:
    """What is in it, as ``made_plain`` and ``plain_tree`` have it.

    Raises:
        CheckpointError: it is damaged, or holds more than weights, states and plain values.
    """
    with explained(path):
        if _is_tar(path):
            raise CheckpointError(
                f"{path} is a tar file, as torch 0.1 wrote them, which is not read; load it with "
                "torch.load(path, weights_only=False) if it is your own, and save it again."
            )
        if not trust_pickle:
            return _read(path)
        # Given the open file, torch does not go by its name.
        with path.open("rb") as file:
            loaded = unpickled(
                path, lambda: torch.load(file, weights_only=False, map_location="cpu")
            )
        return made_plain(loaded, lambda _: False)


def pickle_after_others(data: bytes | mmap.mmap) -> int:
    """Where the pickle of what was saved begins: each before it tells its own end.

    Raises:
        NotInert: one of those is damaged.
    """
    position = 0
    for _ in range(_PICKLES_BEFORE):
        position = read_pickle(data, position, frozenset()).end
    return position


def _is_tar(path: Path) -> bool:
    """torch.load asks that first, and would unpack it."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _read(path: Path) -> Any:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        saved = read_pickle(data, pickle_after_others(data), KNOWN)
        keys = read_pickle(data, saved.end, frozenset())
        regions = _regions(mapped(path), data, saved, keys)
    return plain_tree(saved.value, regions.get)


def _regions(file: Region, data: mmap.mmap, saved: Pickle, keys: Pickle) -> dict[str, Region]:
    """Where the memory of each tensor lies: one after another, each with its count before it."""
    claimed: dict[str, tuple[int, int]] = {}
    for storage in saved.persistent:
        kind, key, length = storage_of(storage)
        if claimed.setdefault(key, (length, ITEM_SIZES[kind])) != (length, ITEM_SIZES[kind]):
            raise Unreadable(f"it says of the memory {key!r:.60} two things")
    listed = keys.value if type(keys.value) is list else []
    if not all(type(key) is str for key in listed) or sorted(listed) != sorted(claimed):
        raise Unreadable("it does not list the memory of its tensors")
    regions: dict[str, Region] = {}
    position = keys.end
    for key in listed:
        length, size = claimed[key]
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        position += 8
        if count * size != length or position + length > file.length:
            raise Unreadable(f"the memory {key!r:.60} of a tensor has fewer bytes than it says")
        regions[key] = file.part(position, length)
        position += length
    return regions
