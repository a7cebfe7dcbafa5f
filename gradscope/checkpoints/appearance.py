"""Says what a file that no reader knows looks like, and what to do with it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

__all__ = ["appearance"]

_BEGINNING: Final = 4096
_TAR: Final = 257
"""Where a tar file says that it is one."""

_BY_BEGINNING: Final = (
    (b"version https://git-lfs", "is a pointer of Git LFS; fetch the file with git lfs pull"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it with gunzip"),
    (b"BZh", "is compressed by bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "is compressed by xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; unpack it"),
    (b"Rar!", "is a RAR archive; unpack it"),
    (
        b"\x89HDF\r\n\x1a\n",
        "is an HDF5 file, as Keras writes them; give the checkpoint of a torch model",
    ),
    (b"GGUF", "is a GGUF file, whose weights are quantised; give the checkpoint it was made of"),
    (b"\x93NUMPY", "is a NumPy array; save it with torch.save({'name': torch.from_numpy(array)})"),
    (b"%PDF", "is a PDF document; give the checkpoint itself"),
)

_PICKLE: Final = (
    "is a pickle that torch.save did not write; load it where it comes from, and save its tensors "
    "with torch.save"
)


def appearance(path: Path) -> str:
    """The end of a sentence that begins with the path: what it looks like, and the next step."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(_BEGINNING)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not size:
        return "is empty; copy or save it again"
    for beginning, told in _BY_BEGINNING:
        if data.startswith(beginning):
            return told
    if data.startswith(b"PK"):
        return _of_zip(path)
    if data[_TAR : _TAR + 5] == b"ustar":
        return "is a tar archive; unpack it, and give the file or folder in it"
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file that it should be; download that again"
    if data[0] == 0x80 and len(data) > 1 and 2 <= data[1] <= 5:
        return _PICKLE
    # A protocol buffer whose first fields are the version and the producer.
    if data[:1] == b"\x08" and data[2:3] == b"\x12":
        return "is an ONNX model, which has no optimizer; give the torch checkpoint it was made of"
    if text.startswith((b"{", b"[")) and _is_text(data):
        if path.suffix == ".ipynb":
            return (
                "is a notebook; call gradscope.profile() in one of its cells, or put model, data "
                "and loss into a Python file"
            )
        if b'"schema_version"' in text:
            return "is no checkpoint but what gradscope wrote; 'gradscope report' shows a report"
        return "is a JSON file without weights; give the file or folder of the weights beside it"
    if _is_text(data):
        return "is a text file; give the file of the weights"
    return (
        "is no checkpoint that is known (torch.save, safetensors, Hugging Face, accelerate, "
        "torch.distributed.checkpoint), or its beginning is damaged; save it again with torch.save"
    )


def _of_zip(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except Exception:  # zipfile raises much on damaged files
        return "is a zip file that is cut short or damaged, as torch.save writes; copy it again"
    if names and all(name.endswith(".npy") for name in names):
        return (
            "is a NumPy .npz file; save its arrays with "
            "torch.save({name: torch.from_numpy(array) ...})"
        )
    if "model.weights.h5" in names:
        return "is a Keras model; give the checkpoint of a torch model"
    return "is a zip file that torch.save did not write; unpack it, and give what is in it"


def _is_text(data: bytes) -> bool:
    try:
        data[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
