"""Zips and safetensors files whose headers lie."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.pickles import around, state_dict
from tests.hostile.valid import safetensors, zipped

__all__ = ["safetensors_lies", "zip_lies"]

Write = Callable[[Path], Path]


def zip_lies() -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it."""
    good = around(state_dict(b"N"))
    data = good["a/data.pkl"]
    yield (
        "a bomb of zeros",
        False,
        lambda path: zipped(path, {**good, "a/data/1": bytes(1 << 26)}, zipfile.ZIP_DEFLATED),
    )
    yield (
        "a bomb of a pickle",
        False,
        lambda path: zipped(path, around(b"\x80\x02](" + b"N" * (1 << 24)), zipfile.ZIP_DEFLATED),
    )
    yield "a bomb of bzip2", False, lambda path: zipped(path, good, zipfile.ZIP_BZIP2)
    yield "a bomb of lzma", False, lambda path: zipped(path, good, zipfile.ZIP_LZMA)
    many = {f"a/data/{number}": b"" for number in range(1, 70_000)}
    yield "seventy thousand entries of nothing", True, lambda path: zipped(path, {**good, **many})
    for wrong, names in {
        "two pickles": ("a/b/data.pkl",),
        "an entry outside": ("../x",),
        "an entry at an absolute path": ("/etc/x",),
        "an entry beside": ("b/x",),
        "an entry with a backslash": ("..\\x",),
    }.items():
        entries = {**good, **dict.fromkeys(names, data)}
        yield f"a zip with {wrong}", False, partial(zipped, entries=entries)
    for wrong, (place, value) in _fields().items():

        def write(path: Path, place: int = place, value: bytes = value) -> Path:
            return _central(zipped(path, good), place, value)

        yield f"a zip with {wrong}", wrong in _UNREAD, write
    yield "a zip with something behind it", False, lambda path: _end(zipped(path, good), b"more")
    yield "a zip behind something", False, lambda path: _end(zipped(path, good), b"", b"more")
    # As the chunks of torch.distributed.checkpoint lie in one file.
    yield "a zip behind a zip", False, lambda path: _end(zipped(path, good), path.read_bytes())
    yield "a zip with the same name twice", False, lambda path: _twice(path, good)
    yield (
        "a zip of which all entries are one",
        False,
        lambda path: _overlapping(zipped(path, {**good, **_others()})),
    )
    for wrong, beginning in {
        "only its beginning": b"PK\3\4",
        "only its end": b"PK\5\6" + bytes(18),
        "a count of entries that is not so": b"PK\3\4"
        + b"PK\5\6\0\0\0\0\xff\xff\xff\xff"
        + bytes(10),
        "the end of a large zip that is nowhere": b"PK\3\4"
        + b"PK\6\6"
        + b"\xff" * 52
        + b"PK\6\7"
        + b"\xff" * 16
        + b"PK\5\6"
        + b"\xff" * 16
        + bytes(2),
    }.items():
        yield f"a zip with {wrong}", False, partial(_bytes, data=beginning)


_UNREAD = ("encryption", "a long comment")
"""Of what the directory says these alone do not matter: the bytes are where they were."""


def _others() -> dict[str, bytes]:
    return {f"a/data/{number}": bytes(16) for number in range(1, 500)}


def _fields() -> dict[str, tuple[int, bytes]]:
    """What is written into the directory's record of the tensor, and where."""
    huge = struct.pack("<I", 0xFFFFFFF0)
    return {
        "a huge size": (20, huge * 2),
        "a huge uncompressed size": (24, huge),
        "a size in a field that is missing": (20, b"\xff" * 8),
        "a place that is none": (42, huge),
        "a place of another entry": (42, bytes(4)),
        "encryption": (8, b"\1\0"),
        "an unknown method": (10, b"\x63\0"),
        "a long name": (28, b"\xff\xff"),
        "a long comment": (32, b"\xff\xff"),
        "another name": (46, b"b"),
    }


def _central(path: Path, place: int, value: bytes) -> Path:
    data = path.read_bytes()
    record = data.index(b"a/data/0", data.index(b"PK\1\2")) - 46 + place
    path.write_bytes(data[:record] + value + data[record + len(value) :])
    return path


def _overlapping(path: Path) -> Path:
    """Every record of ``a/data/`` leads to the same bytes, as in bombs without compression."""
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2")
    first = data.index(b"a/data/0") - 30
    while (place := data.find(b"PK\1\2", place + 1)) > 0:
        if data[place + 46 : place + 53] == b"a/data/":
            data[place + 42 : place + 46] = struct.pack("<I", first)
    path.write_bytes(data)
    return path


def _twice(path: Path, good: dict[str, bytes]) -> Path:
    zipped(path, {**good, "a/data.pkk": good["a/data.pkl"]})
    path.write_bytes(path.read_bytes().replace(b"a/data.pkk", b"a/data.pkl"))
    return path


def _end(path: Path, behind: bytes, before: bytes = b"") -> Path:
    path.write_bytes(before + path.read_bytes() + behind)
    return path


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


def safetensors_lies() -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it."""
    for wrong, header in _headers().items():

        def write(path: Path, header: Any = header) -> Path:
            return safetensors(path, header, bytes(16))

        yield f"safetensors with {wrong}", wrong in _READ, write
    for length in (0, 1, 7, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):

        def lie(path: Path, length: int = length) -> Path:
            return safetensors(path, _one(), bytes(16), length)

        yield f"safetensors with a header of {length} bytes", False, lie
    for size in (0, 4, 8, 15):
        yield (
            f"safetensors with {size} bytes of 16",
            False,
            partial(safetensors, header=_one(), data=bytes(size)),
        )
    yield "safetensors with more bytes", False, lambda path: safetensors(path, _one(), bytes(64))


_READ = ("a shape of a number without a fraction", "50,000 tensors of nothing")


def _headers() -> dict[str, Any]:
    one = json.dumps(_one())[1:-1]
    two = {**_one(), "v": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [16, 16]}
    return {
        "overlapping tensors": two,
        "a hole": _one(shape=[2], data_offsets=[8, 16]),
        "a hole at the end": _one(shape=[2], data_offsets=[0, 8]),
        "offsets the wrong way": _one(data_offsets=[16, 0]),
        "negative offsets": _one(data_offsets=[-16, 0]),
        "huge offsets": _one(data_offsets=[0, 1 << 62], shape=[1 << 60]),
        "offsets beyond 64 bits": _one(data_offsets=[1 << 80, (1 << 80) + 16]),
        "one offset": _one(data_offsets=[0]),
        "no offsets": {"w": {"dtype": "F32", "shape": [4]}},
        "offsets that are texts": _one(data_offsets=["0", "16"]),
        "offsets that are fractions": _one(data_offsets=[0.0, 16.0]),
        "offsets that are truths": _one(data_offsets=[False, 16]),
        "an unknown dtype": _one(dtype="F33"),
        "a dtype of terminal escapes": _one(dtype="\x1b[31m"),
        "a dtype that is a number": _one(dtype=32),
        "a dtype that is a list": _one(dtype=["F32"]),
        "no dtype": {"w": {"shape": [4], "data_offsets": [0, 16]}},
        "a dtype of half the size": _one(dtype="F16"),
        "a shape of another product": _one(shape=[5]),
        "a shape whose product overflows": _one(shape=[1 << 32, 1 << 32]),
        "a negative shape": _one(shape=[-4]),
        "a shape of two negatives": _one(shape=[-2, -2]),
        "a shape that is a text": _one(shape="4"),
        "a shape of fractions": _one(shape=[4.5]),
        "a shape of a number without a fraction": _one(shape=[4.0]),
        "a shape of nothing": _one(shape=None),
        "a hundred thousand dimensions": _one(shape=[1] * 100_000 + [4]),
        "the same key twice": f"{{{one}, {one}}}".encode(),
        "the same field twice": b'{"w":{"dtype":"F32","dtype":"F16","shape":[4],'
        b'"shape":[8],"data_offsets":[0,16]}}',
        "a list": [_one()],
        "a number": 1,
        "nothing in it": {},
        "only metadata": {"__metadata__": {"format": "pt"}},
        "metadata that is a number": {"__metadata__": 1},
        "a tensor that is a number": {"w": 1},
        "a tensor that is nothing": {"w": None},
        "no JSON": b"{" + b"w" * 100,
        "NaN": b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}',
        "Infinity": b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, Infinity]}}',
        "a number of a million digits": b'{"w": {"dtype": "F32", "shape": ['
        + b"9" * 1_000_000
        + b'], "data_offsets": [0, 16]}}',
        "lists in lists": b'{"w": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        "dicts in dicts": b'{"w":' * 200_000 + b"1" + b"}" * 200_000,
        "no text": b'{"\xff\xfe": 1}',
        "a name of half a character": b'{"\\ud800": 1}',
        "50,000 tensors of nothing": {**_one(), **{f"v{n}": nothing for n in range(50_000)}},
        "100,000 keys without tensors": {f"v{number}": {} for number in range(100_000)},
        "another encoding": json.dumps(_one()).encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + json.dumps(_one()).encode(),
    }
