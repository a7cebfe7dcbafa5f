"""Reads what torch.save wrote before torch 1.6: pickles one after another, then all numbers."""

from __future__ import annotations

import mmap
import tarfile
from pathlib import Path
from typing import Any, Final

import torch

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents import checkpoint_of
from gradscope.checkpoints.pickle_calls import RefusedPickle
from gradscope.checkpoints.pickle_check import check_pickle
from gradscope.checkpoints.plain import made_plain
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.unpickling import refused, unpickled
from gradscope.errors import CheckpointError

__all__ = ["TorchLegacyReader", "load_legacy"]

_BEGINNING: Final = b"\x80\x02\x8a\x0a" + torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
"""A pickle of protocol 2 of the number that tells the format."""

_PICKLES_BEFORE: Final = 3
"""That number, the version of the format, and what system wrote it."""


class TorchLegacyReader(Reader):
    """Files of torch 1.5 and before, and of ``_use_new_zipfile_serialization=False``."""

    form = "torch.save file of the old format"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                return file.read(len(_BEGINNING)) == _BEGINNING
        except OSError:
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        return checkpoint_of(load_legacy(path, trust_pickle), str(path), self.form)


def load_legacy(path: Path, trust_pickle: bool) -> Any:
    """What is in it, as ``made_plain`` makes it.

    Raises:
        CheckpointError: it is damaged, or holds more than weights, states and plain values.
    """
    try:
        if _is_tar(path):
            raise CheckpointError(
                f"{path} is a tar file, as torch 0.1 wrote them, which is not read; load it with "
                "torch.load(path, weights_only=False) if it is your own, and save it again."
            )
        if not trust_pickle:
            _check(path)
        # Given the open file, torch does not go by its name.
        with path.open("rb") as file:
            loaded = unpickled(
                path,
                lambda: torch.load(file, weights_only=not trust_pickle, map_location="cpu"),
                trust_pickle,
            )
    except RefusedPickle as error:
        raise refused(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return made_plain(loaded, lambda _: False)


def _is_tar(path: Path) -> bool:
    """torch.load asks that first, and would unpack it."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _check(path: Path) -> None:
    """Torch makes room for what the pickle claims before it looks whether it is there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size = len(data)
        position = 0
        for _ in range(_PICKLES_BEFORE):
            position = check_pickle(data, position, size).end
        saved = check_pickle(data, position, size)
        keys = check_pickle(data, saved.end, size)
        listed = keys.value if type(keys.value) is list else []
        known = all(type(key) is str for key in listed) and set(listed) == set(saved.storages)
        if not known or len(listed) != len(saved.storages):
            raise _cut(path, "it does not list the memory of its tensors")
        position = keys.end
        for key in listed:
            storage = saved.storages[key]
            count = int.from_bytes(data[position : position + 8], "little", signed=True)
            position += 8 + storage.nbytes
            if count != storage.count or position > size:
                raise _cut(path, f"the memory {key!r:.60} of a tensor has fewer bytes than it says")


def _cut(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or cut short: {what}; save or copy it again.")
