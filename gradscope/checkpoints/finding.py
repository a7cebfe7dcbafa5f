"""Finds the reader that knows a file or folder, and the checkpoints of a folder of them."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gradscope.checkpoints.appearance import appearance
from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.distributed import DistributedReader
from gradscope.checkpoints.exported_program import ExportedProgramReader
from gradscope.checkpoints.folders import (
    AccelerateReader,
    HuggingFaceReader,
    PlainFolderReader,
    weight_files,
)
from gradscope.checkpoints.pickled_module import PickledModuleReader
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.safetensors import SafetensorsReader
from gradscope.checkpoints.sharded import ShardedReader
from gradscope.checkpoints.torch_legacy import TorchLegacyReader
from gradscope.checkpoints.torch_zip import TorchZipReader
from gradscope.checkpoints.torchscript import TorchScriptReader
from gradscope.checkpoints.zip_files import forget_directory
from gradscope.errors import CheckpointError

__all__ = ["checkpoints_in", "open_checkpoint"]

_KNOWN_FOLDERS: Final[tuple[type[Reader], ...]] = (
    DistributedReader,
    HuggingFaceReader,
    AccelerateReader,
)
_FOLDERS: Final[tuple[type[Reader], ...]] = (*_KNOWN_FOLDERS, PlainFolderReader)
_FILES: Final[tuple[type[Reader], ...]] = (
    ExportedProgramReader,
    TorchScriptReader,
    PickledModuleReader,
    TorchZipReader,
    SafetensorsReader,
    TorchLegacyReader,
    ShardedReader,
)

_STEP: Final = re.compile(r"(?:step|iter|iteration|update)s?[-_=]?(\d+)", re.IGNORECASE)
_EPOCH: Final = re.compile(r"(?:epoch|ep)[-_=]?(\d+)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"(?<![\d.])(\d+)(?!\.?\d)")
_LISTED: Final = 5


def open_checkpoint(path: str | Path, *, trust_pickle: bool = False) -> Checkpoint:
    """What a checkpoint holds, told by its content and never by its name.

    Args:
        path: of a file, or of a folder that holds one checkpoint.
        trust_pickle: whether to run code that a pickle in it names. It can do anything that the
            user can: for files of one's own only.

    Returns:
        Its tensors, which are read when they are asked for, and its optimizers by parameter.

    Raises:
        CheckpointError: there is none, it is damaged, or it would have to run code.
    """
    given, path = path, Path(path)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(given)!r:.200} is no path.") from error
    if not is_folder and not is_file:
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}; give the path of a checkpoint.")
    with _undisturbed():
        for kind in _FOLDERS if is_folder else _FILES:
            reader = kind()
            if reader.recognises(path):
                return reader.read(path, trust_pickle)
    if is_file:
        raise CheckpointError(f"{path} {appearance(path)}.")
    raise CheckpointError(_of_folder(path))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Millions of objects are made and none of them is garbage: looking for it takes half the time.

    What the readers share is freed at the end.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        forget_directory()
        if was_enabled:
            gc.enable()


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The checkpoints that lie in a folder, in the order of their training.

    They are ordered by the step in their names, else by the epoch, else by the last number; those
    without a number come last, by name. A folder that is one checkpoint itself has itself alone.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    folder = Path(folder)
    if any(kind().recognises(folder) for kind in _KNOWN_FOLDERS):
        return [folder]
    try:
        inner = [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error
    found = [
        entry
        for entry in inner
        if not entry.is_symlink() and any(kind().recognises(entry) for kind in _FOLDERS)
    ]
    return sorted([*weight_files(folder), *found], key=_order)


def _order(path: Path) -> tuple[bool, int, str]:
    name = path.stem if path.is_file() else path.name
    for pattern in (_STEP, _EPOCH, _NUMBER):
        if numbers := pattern.findall(name):
            return False, int(numbers[-1][:18]), path.name
    return True, 0, path.name


def _of_folder(folder: Path) -> str:
    found = checkpoints_in(folder)
    if not found:
        return f"{folder} holds no checkpoint that is known; give a file, or the folder it is in."
    told = ", ".join(repr(path.name) for path in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{folder} holds {len(found)} checkpoints ({told}{more}); give one of them."
