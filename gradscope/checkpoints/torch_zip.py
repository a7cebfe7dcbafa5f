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
from gradscope.checkpoints.contents import checkpoint_of
from gradscope.checkpoints.pickle_calls import RefusedPickle
from gradscope.checkpoints.pickle_check import check_pickle
from gradscope.checkpoints.plain import made_plain
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.unpickling import refused, unpickled
from gradscope.errors import CheckpointError

__all__ = ["TorchZipReader", "load_zip"]

_ENTRY: Final = b"PK\3\4"
_DIRECTORY_END: Final = b"PK\5\6"
_DIRECTORY_END_SIZE: Final = 22
_LOCAL_HEADER: Final = 30
_ENTRIES: Final = 4_000_000
_PICKLE: Final = 1 << 30
"""Bytes of the pickle; that of 100,000 tensors has about ten million."""


class TorchZipReader(Reader):
    """``.pt``, ``.pth``, ``.bin`` and ``.ckpt`` files of torch 1.6 and later."""

    form = "torch.save file"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                if file.read(4) != _ENTRY:
                    return False
            names = zipfile.ZipFile(path).namelist()
        except Exception:  # zipfile raises much on damaged files
            return False
        return any(map(_is_pickle, names)) and not any(
            name.endswith("/constants.pkl") for name in names
        )

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        return checkpoint_of(load_zip(path, trust_pickle), str(path), self.form)


def load_zip(path: Path, trust_pickle: bool) -> Any:
    """What is in it, as ``made_plain`` makes it.

    Raises:
        CheckpointError: it is damaged, or holds more than weights, states and plain values.
    """
    try:
        archive = _checked_archive(path)
        if not trust_pickle:
            _check_pickle(path, archive)
    except RefusedPickle as error:
        raise refused(path, error) from error
    mapped: dict[int, Any] = {}

    def keep(storage: Any, _: str) -> Any:
        mapped[storage.data_ptr()] = storage
        return storage

    with _named_so_that_torch_unpickles(path) as name:
        loaded = unpickled(
            path,
            lambda: torch.load(name, weights_only=not trust_pickle, mmap=True, map_location=keep),
            trust_pickle,
        )
    as_stored = archive.byteorder == sys.byteorder

    def is_mapped(tensor: Tensor) -> bool:
        return as_stored and tensor.untyped_storage().data_ptr() in mapped

    return made_plain(loaded, is_mapped)


@dataclass(frozen=True)
class _Archive:
    """What the zip's own directory says, once it is known to be true.

    Attributes:
        pickle: of what was saved.
        tensors: bytes of each tensor's memory, by key.
        byteorder: of them.
        size: of the file, in bytes.
    """

    pickle: bytes
    tensors: dict[str, int]
    byteorder: str
    size: int


def _checked_archive(path: Path) -> _Archive:
    try:
        size = path.stat().st_size
        with path.open("rb") as end, zipfile.ZipFile(path) as archive:
            end.seek(max(0, size - _DIRECTORY_END_SIZE))
            if end.read(4) != _DIRECTORY_END:
                raise _damaged(path, "something follows the end of the zip")
            return _checked(path, size, archive)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises much on damaged files
        raise _damaged(path, "its directory cannot be read") from error


def _checked(path: Path, size: int, archive: zipfile.ZipFile) -> _Archive:
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if len(entries) > _ENTRIES:
        raise _damaged(path, f"it has {len(entries):,} entries, more than {_ENTRIES:,}")
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise _damaged(path, "two of its entries have the same name")
    pickles = [name for name in by_name if name.endswith("/data.pkl")]
    if len(pickles) != 1 or not _is_pickle(pickles[0]):
        raise _damaged(path, f"it has {len(pickles)} pickles instead of one")
    root = pickles[0].removesuffix("data.pkl")
    before = 0
    with path.open("rb", buffering=0) as file:
        for entry in entries:
            if not entry.filename.startswith(root):
                raise _damaged(path, f"its entry {entry.filename!r:.100} lies beside the others")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise _damaged(
                    path,
                    f"its entry {entry.filename!r:.100} is compressed, as torch.save never does",
                )
            if entry.header_offset < before:
                raise _damaged(path, f"its entry {entry.filename!r:.100} overlaps another one")
            before = _end_of(path, file, entry)
    if before > archive.start_dir or archive.start_dir > size:
        raise _damaged(path, "its last entry ends outside the file")
    if by_name[pickles[0]].file_size > _PICKLE:
        raise _damaged(path, f"its pickle has more than {_PICKLE >> 20:,} MiB")
    order = by_name.get(f"{root}byteorder")
    data = f"{root}data/"
    return _Archive(
        pickle=archive.read(pickles[0]),
        tensors={
            name.removeprefix(data): entry.file_size
            for name, entry in by_name.items()
            if name.startswith(data)
        },
        byteorder="little"
        if order is None or order.file_size > 10
        else archive.read(order).decode("ascii"),
        size=size,
    )


def _end_of(path: Path, file: Any, entry: zipfile.ZipInfo) -> int:
    """Where an entry ends, by the header before it, which is what torch goes by."""
    file.seek(entry.header_offset)
    name = entry.orig_filename.encode("utf-8")
    header = file.read(_LOCAL_HEADER + len(name))
    told = int.from_bytes(header[26:28], "little")
    if header[:4] != _ENTRY or told != len(name) or header[_LOCAL_HEADER:] != name:
        raise _damaged(path, f"its entry {entry.filename!r:.100} is not where its directory says")
    extra = int.from_bytes(header[28:30], "little")
    return int(entry.header_offset + _LOCAL_HEADER + len(name) + extra + entry.file_size)


def _check_pickle(path: Path, archive: _Archive) -> None:
    checked = check_pickle(archive.pickle, 0, archive.size)
    for key, storage in checked.storages.items():
        held = archive.tensors.get(key)
        if held is None or storage.nbytes > held:
            raise _damaged(
                path,
                f"the memory {key!r:.60} of a tensor has {held or 0:,} bytes instead of "
                f"{storage.nbytes:,}",
            )


def _is_pickle(name: str) -> bool:
    return name.endswith("/data.pkl") and name.count("/") == 1


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


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or was made up: {what}; save or copy it again.")
