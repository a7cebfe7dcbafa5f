"""Fashion-MNIST: ten kinds of clothing, 28 x 28 grey pixels, as tensors.

The four gzipped IDX files are read as they are published. Where no full copy (60,000 and 10,000
images) is found, the shipped class-balanced sample (6,000 and 1,000) is used: enough to see a
model learn or not learn, too little to compare accuracies with published ones.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", arXiv:1708.07747 (2017).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradscope.errors import SubjectError

__all__ = ["Batches", "FashionMNIST", "load_fashion_mnist", "read_idx"]

SAMPLE = Path(__file__).parent / "data" / "fashion-mnist"
"""The sample that ships with gradscope."""

SYSTEM = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the full data."""

VARIABLE = "GRADSCOPE_DATA"
"""The environment variable that names another folder."""

UNSIGNED_BYTE = 0x08
"""The only IDX element type that Fashion-MNIST uses."""


@dataclass(frozen=True, slots=True)
class FashionMNIST:
    """The data set in memory.

    Attributes:
        train_images, test_images: float32, ``(samples, 1, 28, 28)``, in [0, 1].
        train_labels, test_labels: int64, ``(samples,)``, from 0 to 9.
        source: the folder it was read from, or ``shipped sample``.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source: str

    @property
    def name(self) -> str:
        """What experiments call it: they keep no names of folders."""
        if self.source in ("shipped sample", str(SAMPLE)):
            return "shipped sample"
        count = len(self.train_labels)
        return "full Fashion-MNIST" if count == 60000 else f"{count} images of Fashion-MNIST"


class Batches:
    """Shuffled batches of images and labels, in a new order on every pass.

    The order is drawn from torch's global generator, so that seeding it fixes the order. A last
    batch that would be smaller than the others is left out.

    Args:
        images: ``(samples, ...)``.
        labels: ``(samples,)``.
        batch_size: samples in every batch.

    Raises:
        ValueError: the lengths differ, or not even one batch can be made.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        if not 1 <= batch_size <= len(images):
            raise ValueError(
                f"batch_size is {batch_size}; with {len(images)} images it must be "
                f"between 1 and {len(images)}"
            )
        self.images = images
        self.labels = labels
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images)).to(self.images.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self.images[chosen], self.labels[chosen]


def load_fashion_mnist(folder: Path | None = None) -> FashionMNIST:
    """Read Fashion-MNIST, on the CPU.

    Args:
        folder: holds the four files ``train-images-idx3-ubyte.gz`` and so on. Without it, the
            folder that the environment variable ``GRADSCOPE_DATA`` names, else Debian's
            ``/usr/share/datasets/fashion-mnist``, else the shipped sample.

    Returns:
        Float32 images in [0, 1] and int64 labels. The folder read last is remembered, so a
        second call is cheap and gives the same tensors: do not change them in place.

    Raises:
        SubjectError: a file is missing, damaged, or does not hold what its name says.
    """
    return _load(folder or _find())


def read_idx(path: Path, dimensions: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Read one gzipped IDX file of unsigned bytes.

    Args:
        path: the file.
        dimensions: how many the array must have; 3 for images, 1 for labels.

    Returns:
        A read-only uint8 array of the shape that the file's header gives.

    Raises:
        SubjectError: the file is missing, no gzip file, no such IDX file, or truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise SubjectError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (EOFError, zlib.error) as error:
        raise SubjectError(f"{path} is damaged or cut short: {error}. Copy it again.") from error

    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise SubjectError(
            f"{path} begins with {content[:4].hex() or 'nothing'}, but an IDX file of "
            f"{dimensions}-dimensional unsigned bytes begins with {magic.hex()}."
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise SubjectError(f"{path} ends inside its header, after {len(content)} bytes.")
    shape = tuple(int(extent) for extent in np.frombuffer(content[4:header], dtype=">u4"))
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    expected = math.prod(shape)
    if len(values) != expected:
        raise SubjectError(
            f"{path} holds {len(values)} values, but its header says {shape}, that is {expected}."
        )
    return values.reshape(shape)


def _find() -> Path:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return SYSTEM if SYSTEM.is_dir() else SAMPLE


@lru_cache(maxsize=1)
def _load(folder: Path) -> FashionMNIST:
    train_images, train_labels = _split(folder, "train")
    test_images, test_labels = _split(folder, "t10k")
    source = "shipped sample" if folder == SAMPLE else str(folder)
    return FashionMNIST(train_images, train_labels, test_images, test_labels, source)


def _split(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    images_path = folder / f"{part}-images-idx3-ubyte.gz"
    labels_path = folder / f"{part}-labels-idx1-ubyte.gz"
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1)
    if images.shape[1:] != (28, 28):
        raise SubjectError(f"{images_path} holds images of {images.shape[1:]}, not (28, 28).")
    if len(images) != len(labels):
        raise SubjectError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels."
        )
    if labels.max(initial=0) > 9:
        raise SubjectError(f"{labels_path} holds the label {labels.max()}; the highest is 9.")
    pixels = images[:, np.newaxis].astype(np.float32) / np.float32(255)
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))
