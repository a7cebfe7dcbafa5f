"""Reads one file of tensors that lies in a folder, whatever format it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradscope.checkpoints.safetensors import SafetensorsReader, load_safetensors
from gradscope.checkpoints.torch_legacy import TorchLegacyReader, load_legacy
from gradscope.checkpoints.torch_zip import TorchZipReader, load_zip
from gradscope.errors import CheckpointError

__all__ = ["inside", "is_tensor_file", "load_tensor_file"]


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
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or ":" in name:
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
    if path.resolve().parent != folder.resolve():
        raise CheckpointError(
            f"{told_by} names {name!r:.100}, which is a link out of {folder}; put the file itself "
            "there."
        )
    return path
