"""Finds the reader that knows a file or folder, and the checkpoints of a folder of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gradscope.checkpoints.appearance import appearance
from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.formats.distributed import DistributedReader, is_part
from gradscope.checkpoints.formats.exported_program import ExportedProgramReader
from gradscope.checkpoints.formats.folders import (
    AccelerateReader,
    HuggingFaceReader,
    PlainFolderReader,
    weight_files,
)
from gradscope.checkpoints.formats.pickled_module import PickledModuleReader
from gradscope.checkpoints.formats.safetensors import SafetensorsReader
from gradscope.checkpoints.formats.sharded import ShardedReader
from gradscope.checkpoints.formats.torch_legacy import TorchLegacyReader
from gradscope.checkpoints.formats.torch_zip import TorchZipReader
from gradscope.checkpoints.formats.torchscript import TorchScriptReader
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.run_order import name_order
from gradscope.checkpoints.storage.zip_files import forget_directory
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

_INNER: Final = ("checkpoints", "weights")
"""Where trainers keep them: Lightning in the former, below a folder for each version of a run."""
_LISTED: Final = 5

_CUT_OFF: Final = (
    "holds parts of a torch.distributed.checkpoint without its .metadata, which is written last: "
    "saving was cut off, or the file was not copied; copy it, or give an earlier checkpoint"
)


def open_checkpoint(path: str | Path, *, trust_pickle: bool = False) -> Checkpoint:
    """What a checkpoint holds; a file is told by its content, a folder by the names in it.

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
    if is_file and is_part(path.name):
        raise CheckpointError(_of_part(path))
    with _undisturbed():
        for kind in _FOLDERS if is_folder else _FILES:
            reader = kind()
            if reader.recognises(path):
                return reader.read(path, trust_pickle)
    if is_file:
        raise CheckpointError(f"{path} {appearance(path)}.")
    found = checkpoints_in(path)
    if len(found) == 1 and found[0] != path:
        return open_checkpoint(found[0], trust_pickle=trust_pickle)
    raise CheckpointError(_of_folder(path, found))


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

    They are ordered by their names, see :func:`name_order`. A folder that is one checkpoint itself
    has itself alone, also where others lie in it: the folder that transformers' Trainer leaves
    with a model at its top is that model. Where none lie in a folder itself, those in its folder
    ``checkpoints`` or ``weights`` are meant.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    folder = Path(folder)
    if any(kind().recognises(folder) for kind in _KNOWN_FOLDERS):
        return [folder]
    try:
        inner = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error
    found = [entry for entry in inner if any(kind().recognises(entry) for kind in _FOLDERS)]
    found += weight_files(folder, by_name=True)
    if found:
        return sorted(found, key=name_order)
    kept = [entry for entry in inner if entry.name in _INNER]
    return [each for entry in kept[:1] for each in checkpoints_in(entry)]


def _of_part(path: Path) -> str:
    if DistributedReader().recognises(path.parent):
        return f"{path} is one part of a torch.distributed.checkpoint; give the folder it is in."
    return f"{path.parent} {_CUT_OFF}."


def _of_folder(folder: Path, found: Sequence[Path]) -> str:
    if not found and any(is_part(entry.name) for entry in folder.iterdir()):
        return f"{folder} {_CUT_OFF}."
    if not found:
        return f"{folder} holds no checkpoint that is known; give a file, or the folder it is in."
    told = ", ".join(repr(path.name) for path in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{folder} holds {len(found)} checkpoints ({told}{more}); give one of them."
