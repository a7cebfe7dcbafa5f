"""CIFAR-100: 100 kinds of things, 32 x 32 coloured pixels, as tensors.

The files ``train`` and ``test`` are read as they are published for Python (cifar-100-python.tar.gz,
unpacked). They are pickles, and a pickle can run any program when it is read. So none of numpy's
own names are looked up: the few that these files use are read into stand-ins that hold nothing but
bytes, and any other name is refused.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradscope.errors import SubjectError

__all__ = ["CIFAR100", "CLASSES", "load_cifar100"]

CLASSES = 100

SHAPE = (3, 32, 32)
"""Of an image: channels, rows, columns, in the order that its 3,072 bytes have."""


@dataclass(frozen=True, slots=True)
class CIFAR100:
    """The data set in memory.

    Attributes:
        train_images, test_images: uint8, ``(samples, 3, 32, 32)``; as floats they would take up
            700 MB.
        train_labels, test_labels: int64, ``(samples,)``, the fine labels, from 0 to 99.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_cifar100(folder: Path) -> CIFAR100:
    """Read CIFAR-100, on the CPU.

    Args:
        folder: holds the files ``train`` and ``test``.

    Raises:
        SubjectError: a file is missing, damaged, asks for more than an array of bytes, or does not
            hold images of 32 x 32 and labels from 0 to 99.
    """
    return CIFAR100(*_split(folder / "train"), *_split(folder / "test"))


def _split(path: Path) -> tuple[Tensor, Tensor]:
    content = _unpickled(path)
    if not isinstance(content, dict) or not {b"data", b"fine_labels"} <= content.keys():
        raise SubjectError(
            f"{path} holds no 'data' and 'fine_labels', so it is no file of CIFAR-100."
        )
    data, labels = content[b"data"], content[b"fine_labels"]
    pixels = data.values if isinstance(data, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3072 or not len(pixels):
        found = "no array" if pixels is None else f"an array of {pixels.shape}"
        raise SubjectError(f"{path} holds {found} as its data, not bytes of (images, 3072).")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise SubjectError(f"{path} holds fine labels that are no list of whole numbers.")
    if len(labels) != len(pixels):
        raise SubjectError(f"{path} holds {len(pixels)} images, but {len(labels)} fine labels.")
    for label in labels:
        if not 0 <= label < CLASSES:
            raise SubjectError(f"{path} holds the fine label {label}; they go from 0 to 99.")
    images = torch.from_numpy(pixels.reshape(-1, *SHAPE).copy())  # what was read is read-only
    return images, torch.tensor(labels)


def _unpickled(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SubjectError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        # Python 2 wrote them; what it calls text is bytes.
        return _Unpickler(BytesIO(content), encoding="bytes").load()
    except _Unexpected as error:
        raise SubjectError(
            f"{path} asks for {error}, which no file of CIFAR-100 does. It may be malicious, and "
            "was not read."
        ) from error
    except Exception as error:  # damaged bytes can be any instruction with any argument
        raise SubjectError(
            f"{path} is damaged or no pickle ({type(error).__name__}: {error}). Copy it again."
        ) from error


class _Unexpected(Exception):
    """A pickle asks for something that the data set has no use for; says what."""


class _Dtype:
    """Stands in for numpy's dtype, and can only be that of bytes."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise _Unexpected(f"an array of the type {code!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for bytes."""


class _Array:
    """Stands in for numpy's array."""

    values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise ValueError("an array holds no bytes")
        values = np.frombuffer(content, dtype=np.uint8)
        self.values = values.reshape(shape, order="F" if by_columns else "C")


def _reconstruct(*_: object) -> _Array:
    """Stands in for numpy's function that makes the array whose content follows."""
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for ``_codecs.encode``, which is how Python 3 writes bytes in protocol 2."""
    if encoding not in ("latin1", b"latin1"):
        raise _Unexpected(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return _reconstruct
            case "numpy", "ndarray":
                return _Array
            case "numpy", "dtype":
                return _Dtype
            case "_codecs", "encode":
                return _encode
        raise _Unexpected(f"{module}.{name}")
