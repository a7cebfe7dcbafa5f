"""Reads what torch.save writes: a zip with a pickle and the memory of every tensor."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.pickles.inert_pickle import read_pickle
from gradscope.checkpoints.pickles.known_names import KNOWN
from gradscope.checkpoints.pickles.plain import made_plain
from gradscope.checkpoints.pickles.saved_tensors import plain_tree
from gradscope.checkpoints.pickles.unpickling import explained, unpickled
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Region, Unreadable, mapped
from gradscope.checkpoints.storage.zip_files import Directory, directory_of, ends_of, pickle_in

__all__ = ["TorchZipReader", "load_zip"]

_DIRECTORY_END: Final = b"PK\5\6"
_DIRECTORY_END_SIZE: Final = 22
_ENTRIES: Final = 4_000_000
_PICKLE: Final = 1 << 30
"""Bytes of the pickle; that of 100,000 tensors has about ten million."""


class TorchZipReader(Reader):
    """``.pt``, ``.pth``, ``.bin`` and ``.ckpt`` files of torch 1.6 and later."""

    form = "torch.save file"

    def recognises(self, path: Path) -> bool:
        directory = directory_of(path)
        if directory is None:
            return False
        names = directory.entries
        return any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names) and (
            not any(name.endswith("/constants.pkl") for name in names)
        )

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        return checkpoint_of(load_zip(path, trust_pickle), str(path), self.form)


def load_zip(path: Path, trust_pickle: bool) -> Any:
    """What is in it, as ``made_plain`` and ``plain_tree`` have it.

    Raises:
        CheckpointError: it is damaged, or holds more than weights, states and plain values.
    """
    with explained(path):
        archive = _checked(path)
        return _unpickled(path, archive) if trust_pickle else _read(archive)


@dataclass(frozen=True)
class _Archive:
    """What the zip's own directory says, once it is known to be true.

    Attributes:
        file: mapped into memory.
        entries: offset and length of each, by name without the folder that all lie in.
    """

    file: Region
    entries: dict[str, tuple[int, int]]

    def part(self, name: str) -> Region | None:
        return self.file.part(*self.entries[name]) if name in self.entries else None

    @property
    def byteorder(self) -> str:
        order = self.part("byteorder")
        return "little" if order is None or order.length > 10 else order.read().decode("latin-1")


def _checked(path: Path) -> _Archive:
    directory = directory_of(path)
    if directory is None:
        raise Unreadable("its directory cannot be read")
    pickle = _refuse_what_torch_never_writes(path, directory)
    ends = ends_of(directory.file, directory.entries)
    if max(ends.values()) > directory.start or directory.start > directory.file.length:
        raise Unreadable("its last entry ends outside the file")
    root = len(pickle) - len("data.pkl")
    places = {
        name[root:]: (ends[name] - entry.file_size, entry.file_size)
        for name, entry in directory.entries.items()
    }
    return _Archive(mapped(path), places)


def _refuse_what_torch_never_writes(path: Path, directory: Directory) -> str:
    """The name of the pickle in it."""
    entries = directory.entries
    with path.open("rb") as file:
        file.seek(max(0, directory.file.length - _DIRECTORY_END_SIZE))
        if file.read(4) != _DIRECTORY_END:
            raise Unreadable("something follows the end of the zip")
    if directory.count > _ENTRIES:
        raise Unreadable(f"it has {directory.count:,} entries, more than {_ENTRIES:,}")
    if directory.count != len(entries):
        raise Unreadable("two of its entries have the same name")
    pickles = sum(name.endswith("/data.pkl") for name in entries)
    pickle = pickle_in(entries)
    if pickles != 1 or pickle is None:
        raise Unreadable(f"it has {pickles} pickles instead of one")
    root = pickle.removesuffix("data.pkl")
    for name, entry in entries.items():
        if not name.startswith(root):
            raise Unreadable(f"its entry {name!r:.100} lies beside the others")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Unreadable(f"its entry {name!r:.100} is compressed, as torch.save never does")
    if min(entry.header_offset for entry in entries.values()):
        raise Unreadable("something lies before its first entry")
    if entries[pickle].file_size > _PICKLE:
        raise Unreadable(f"its pickle has more than {_PICKLE >> 20:,} MiB")
    return pickle


def _read(archive: _Archive) -> Any:
    if archive.byteorder != "little":
        told = "big-endian" if archive.byteorder == "big" else f"{archive.byteorder!r}-endian"
        raise Unreadable(f"its numbers are {told}, which is not read")
    pickle = archive.part("data.pkl")
    read = read_pickle(b"" if pickle is None else bytes(pickle.read()), 0, KNOWN)
    return plain_tree(read.value, lambda key: archive.part(f"data/{key}"))


def _unpickled(path: Path, archive: _Archive) -> Any:
    mappings: set[int] = set()

    def keep(storage: Any, _: str) -> Any:
        mappings.add(storage.data_ptr())
        return storage

    with _named_so_that_torch_unpickles(path) as name:
        loaded = unpickled(
            path, lambda: torch.load(name, weights_only=False, mmap=True, map_location=keep)
        )
    as_stored = archive.byteorder == sys.byteorder

    def is_mapped(tensor: Tensor) -> bool:
        return as_stored and tensor.untyped_storage().data_ptr() in mappings

    return made_plain(loaded, is_mapped)


@contextmanager
def _named_so_that_torch_unpickles(path: Path) -> Iterator[str]:
    """torch.load takes what is called .safetensors for that, whatever it is."""
    if not path.name.endswith(".safetensors"):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "saved.pt"
        link.symlink_to(path.absolute())
        yield str(link)
