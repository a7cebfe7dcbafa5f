"""Reads one file of tensors that lies in a folder, whatever format it has."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any, Final

from gradscope.checkpoints.formats.safetensors import SafetensorsReader, load_safetensors
from gradscope.checkpoints.formats.torch_legacy import TorchLegacyReader, load_legacy
from gradscope.checkpoints.formats.torch_zip import TorchZipReader, load_zip
from gradscope.errors import CheckpointError

__all__ = ["inside", "is_inside", "is_plain_name", "is_tensor_file", "load_tensor_file"]

_BLOB: Final = re.compile(r"\.\./\.\./blobs/([0-9a-f]{32,128})")
"""A file is called by its SHA-256, or by Git's SHA-1."""


def is_tensor_file(path: Path) -> bool:
    """Whether it is one of those that ``load_tensor_file`` reads."""
    readers = (TorchZipReader(), SafetensorsReader(), TorchLegacyReader())
    return any(reader.recognises(path) for reader in readers)


def load_tensor_file(path: Path, trust_pickle: bool) -> tuple[Any, str]:
    """What it holds as plain containers, and its form in words.

    Raises:
        CheckpointError: it is none of the known formats, or damaged.
    """
    if SafetensorsReader().recognises(path):
        return load_safetensors(path), SafetensorsReader.form
    if TorchZipReader().recognises(path):
        return load_zip(path, trust_pickle), TorchZipReader.form
    if TorchLegacyReader().recognises(path):
        return load_legacy(path, trust_pickle), TorchLegacyReader.form
    raise CheckpointError(
        f"{path} is neither a safetensors file nor one of torch.save, or is damaged at its "
        "beginning; copy it again."
    )


def inside(folder: Path, name: str, told_by: Path) -> Path:
    """A file of a folder, by a name that a file in it tells.

    Raises:
        CheckpointError: the name is a path, or leads out of the folder, or there is no such file.
    """
    if not is_plain_name(name):
        raise CheckpointError(
            f"{told_by} names {name!r:.100}, which is not the plain name of a file beside it; "
            "copy it again, and do not use it if you did not make it."
        )
    path = folder / name
    try:
        is_there = path.is_file()
    except OSError:  # the name is too long
        is_there = False
    if not is_there:
        raise CheckpointError(
            f"{told_by} names {name!r:.100}, which is not beside it; copy it too."
        )
    if not is_inside(folder, name):
        raise CheckpointError(
            f"{told_by} names {name!r:.100}, which is a link out of {folder}; put the file itself "
            "there."
        )
    return path


def is_plain_name(name: str) -> bool:
    """Whether it can only be a file of the folder, and a terminal shows it as it is."""
    return (
        name not in ("", ".", "..")
        and not any(part in name for part in "/\\:")
        and name.isprintable()
    )


def is_inside(folder: Path, name: str) -> bool:
    """Whether a file of a folder is in it also when links are followed.

    They may lead out of it in one layout alone, that of Hugging Face's cache, where the files of
    ``snapshots/REVISION`` are links to plain files in ``blobs`` beside ``snapshots``.
    """
    path = folder / name
    try:
        if not path.is_symlink() or path.resolve().parent == folder.resolve():
            return True
        revision = folder.resolve()
        blobs = revision.parent.parent / "blobs"
        found = _BLOB.fullmatch(str(path.readlink()))
        return (
            found is not None
            and revision.parent.name == "snapshots"
            and stat.S_ISDIR(blobs.lstat().st_mode)
            and stat.S_ISREG((blobs / found[1]).lstat().st_mode)
        )
    except (OSError, RuntimeError):  # links without end
        return False
