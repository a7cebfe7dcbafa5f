"""Where the entries of a zip file lie; torch compresses none of those that hold tensors."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from gradscope.checkpoints.storage.regions import Region, RegionFile, Unreadable

__all__ = [
    "Directory",
    "directory_of",
    "ends_of",
    "forget_directory",
    "pickle_in",
    "refuse_big_endian",
    "regions_of_zip",
]

_ENTRY: Final = b"PK\3\4"
_LOCAL_HEADER: Final = 30
"""Bytes of an entry's own header before its name (APPNOTE.TXT, 4.3.7)."""


@dataclass(frozen=True, eq=False)
class Directory:
    """What a zip says of itself, of which nothing was checked.

    Attributes:
        file: the zip.
        entries: by name.
        count: of the entries, more than there are names where some have the same.
        start: of the directory itself.
    """

    file: Region
    entries: Mapping[str, zipfile.ZipInfo]
    count: int
    start: int

    def region(self, name: str) -> Region:
        """The bytes of an entry that is not compressed.

        Raises:
            Unreadable: they are compressed, or not where they should be.
        """
        if self.entries[name].compress_type != zipfile.ZIP_STORED:
            raise Unreadable(f"its entry {name!r:.100} is compressed")
        return self._regions({name: self.entries[name]})[name]

    def regions(self) -> dict[str, Region]:
        """The same of all entries that are not compressed.

        Raises:
            Unreadable: one is there twice, or not where it should be.
        """
        if self.count != len(self.entries):
            raise Unreadable("two of its entries have the same name")
        stored = {
            name: entry
            for name, entry in self.entries.items()
            if entry.compress_type == zipfile.ZIP_STORED
        }
        return self._regions(stored)

    def _regions(self, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Region]:
        ends = ends_of(self.file, entries)
        return {
            name: self.file.part(ends[name] - entry.compress_size, entry.file_size)
            for name, entry in entries.items()
        }


def directory_of(path: Path) -> Directory | None:
    """That of a file; None if it is no zip.

    Every reader asks whether a file is its own, and reading the list of 100,000 tensors takes a
    second, so that of the last file is kept until ``forget_directory``.
    """
    try:
        if not path.is_file():
            return None
        told = path.stat()
        return _directory_of(path, told.st_mtime_ns, told.st_size, told.st_ino)
    except (OSError, Unreadable):
        return None


@lru_cache(maxsize=1)
def _directory_of(path: Path, _: int, size: int, __: int) -> Directory:
    with path.open("rb") as file:
        if file.read(4) != _ENTRY:
            raise Unreadable("it is no zip file")
        return _directory(Region(path, 0, size), file)


def forget_directory() -> None:
    """Frees the memory of what is kept, which may be more than that of all names of tensors."""
    _directory_of.cache_clear()


def _directory(region: Region, file: IO[bytes]) -> Directory:
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
            entries = {entry.filename: entry for entry in listed}
            return Directory(region, entries, len(listed), archive.start_dir)
    except Exception as error:
        # zipfile lets through what struct, codecs and arithmetic make of damaged headers.
        raise Unreadable("it is not a whole zip file") from error


def regions_of_zip(region: Region) -> dict[str, Region]:
    """Where the entries of a zip inside another file lie, by name.

    Raises:
        Unreadable: it is no zip, or damaged, or an entry is twice there or outside.
    """
    try:
        with RegionFile(region) as raw, io.BufferedReader(raw) as file:
            return _directory(region, file).regions()
    except OSError as error:
        raise Unreadable("it cannot be read") from error


def ends_of(region: Region, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, int]:
    """Where entries end in a zip, by the header before each, which is what torch goes by.

    Raises:
        Unreadable: there is no such header, or an entry begins in another one.
    """
    ends: dict[str, int] = {}
    by_place = sorted(entries.items(), key=lambda item: item[1].header_offset)
    before = 0
    with region.path.open("rb", buffering=0) as file:
        for name, entry in by_place:
            if entry.header_offset < before:
                raise Unreadable(f"its entry {name!r:.100} overlaps another one")
            if entry.header_offset > region.length:
                raise Unreadable(f"its entry {name!r:.100} is not where its directory says")
            file.seek(region.offset + entry.header_offset)
            told = entry.orig_filename.encode("utf-8")
            header = file.read(_LOCAL_HEADER + len(told))
            length = int.from_bytes(header[26:28], "little")
            if header[:4] != _ENTRY or length != len(told) or header[_LOCAL_HEADER:] != told:
                raise Unreadable(f"its entry {name!r:.100} is not where its directory says")
            extra = int.from_bytes(header[28:30], "little")
            begin = entry.header_offset + _LOCAL_HEADER + length + extra
            before = ends[name] = begin + entry.compress_size
    return ends


def refuse_big_endian(entries: Mapping[str, Region], root: str) -> None:
    """Goes by what torch notes of the byte order below ``root``; no note means little-endian.

    Raises:
        Unreadable: it is another one.
    """
    order = entries.get(f"{root}byteorder")
    if order is not None and order.length < 10 and bytes(order.read()) != b"little":
        raise Unreadable("its numbers are big-endian")


def pickle_in(names: Mapping[str, object]) -> str | None:
    """The entry that torch.save pickles into; None if there is not one."""
    found = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    return found[0] if len(found) == 1 else None
