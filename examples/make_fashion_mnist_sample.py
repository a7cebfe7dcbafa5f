"""Makes the shipped sample of Fashion-MNIST from the full data; it was run once.

python examples/make_fashion_mnist_sample.py /usr/share/datasets/fashion-mnist FOLDER

From every class the same number of images is drawn without replacement, by a seeded generator,
and kept in the order of the full data. The gzip files carry no time and no name, so that the
same zlib writes the same bytes.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

from gradscope.examples.fashion_mnist import UNSIGNED_BYTE, read_idx

__all__ = ["PER_CLASS", "SEED", "make_sample", "write_idx"]

SEED = 20170828
"""The day Fashion-MNIST was submitted to arXiv."""

PER_CLASS = {"train": 600, "t10k": 100}
"""Images drawn from each of the ten classes."""


def make_sample(full: Path, out: Path) -> None:
    """Write the four files of the sample.

    Args:
        full: folder of the full data's four files.
        out: folder to write to; made if it is not there.

    Raises:
        SubjectError: a file of the full data is missing or damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(SEED)
    for part, per_class in PER_CLASS.items():
        images_name = f"{part}-images-idx3-ubyte.gz"
        labels_name = f"{part}-labels-idx1-ubyte.gz"
        images = read_idx(full / images_name, dimensions=3)
        labels = read_idx(full / labels_name, dimensions=1)
        chosen = np.sort(
            np.concatenate(
                [
                    generator.choice(np.flatnonzero(labels == label), per_class, replace=False)
                    for label in range(10)
                ]
            )
        )
        write_idx(out / images_name, images[chosen])
        write_idx(out / labels_name, labels[chosen])


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Write an array of unsigned bytes as one gzipped IDX file.

    Args:
        path: the file to write.
        array: uint8, of any shape.
    """
    magic = bytes([0, 0, UNSIGNED_BYTE, array.ndim])
    shape = np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(magic + shape + array.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    make_sample(Path(sys.argv[1]), Path(sys.argv[2]))
