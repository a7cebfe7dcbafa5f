"""Makes crooked files for the tests, and asks for the one sentence that refuses them."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from gradscope.checkpoints import open_checkpoint
from gradscope.errors import CheckpointError


def refusal(path: Path) -> str:
    """The message, which is one line and as long as one can read."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900 + len(str(path))
    return message


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def around(data: bytes, **tensors: bytes) -> dict[str, bytes]:
    """The entries of a file of torch.save with a pickle of one's own."""
    more = {f"a/data/{key.removeprefix('_')}": value for key, value in tensors.items()}
    return {"a/data.pkl": data, "a/byteorder": b"little", **more, "a/version": b"3\n"}


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def tensor(size: int, offset: int = 0, stride: int = 1, key: str = "0", count: int = 4) -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(key)
        + text("cpu")
        + number(count)
        + b"tQ"
        + number(offset)
        + number(size)
        + b"\x85"
        + number(stride)
        + b"\x85\x89ccollections\nOrderedDict\n)RtR"
    )


def in_dict(value: bytes) -> bytes:
    return b"\x80\x02}" + text("w.weight") + value + b"s."
