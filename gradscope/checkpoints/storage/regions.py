"""Parts of files, which are looked at only once it is sure that they are there."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gradscope.errors import CheckpointError

__all__ = ["Region", "RegionFile", "Unreadable", "mapped"]


class Unreadable(ValueError):
    """Why something cannot be read, as a part of a sentence."""


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a file, from ``offset``; that they are there was checked.

    Attributes:
        path: of the file.
        offset: of the first of them.
        length: how many.
        mapping: of the whole file into memory; None where they have to be read.
    """

    path: Path
    offset: int
    length: int
    mapping: torch.UntypedStorage | None = field(default=None, compare=False, repr=False)

    def read(self) -> bytearray:
        """All of them, in memory that is the caller's own.

        Raises:
            CheckpointError: the file has become shorter since, or cannot be read.
        """
        data = bytearray(self.length)
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                count = file.readinto(data)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read ({error.strerror}).") from error
        if count != self.length:
            raise CheckpointError(
                f"{self.path} ends before byte {self.offset + self.length}, which was there when "
                "it was opened; scan it when nothing writes to it."
            )
        return data

    def part(self, offset: int, length: int) -> Region:
        """Some of them.

        Raises:
            Unreadable: they are not all there.
        """
        if offset < 0 or length < 0 or offset + length > self.length:
            raise Unreadable(f"{length} bytes at {offset} lie outside of {self.length}")
        return Region(self.path, self.offset + offset, length, self.mapping)


class RegionFile(io.RawIOBase):
    """A part of a file, which looks like a file to zipfile."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._file = region.path.open("rb")
        self._position = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._region.length}
        position = start[whence] + offset
        if position < 0:
            raise OSError("a position before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._region.length - self._position))
        self._file.seek(self._region.offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def mapped(path: Path) -> Region:
    """All bytes of a file, mapped into memory where nothing can write to it.

    Raises:
        CheckpointError: it cannot be read or mapped.
    """
    try:
        length = path.stat().st_size
        mapping: Any = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=length)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} cannot be mapped into memory.") from error
    return Region(path, 0, length, mapping)
