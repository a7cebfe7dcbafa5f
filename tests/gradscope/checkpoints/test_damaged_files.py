"""Files that are damaged, cut short or lie of their sizes are refused in one sentence."""

from __future__ import annotations

import json
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradscope.checkpoints import open_checkpoint
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.crooked import around, in_dict, refusal, tensor, zipped
from tests.gradscope.checkpoints.trained import whole


def test_bombs(tmp_path: Path) -> None:
    bomb = around(in_dict(tensor(4)), _0=bytes(1 << 24))
    path = zipped(tmp_path / "a", bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    assert "is compressed, as torch.save never does" in refusal(path)


def test_zips_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a"
    good = around(in_dict(tensor(4)), _0=bytes(16))
    zipped(path, good)
    assert open_checkpoint(path).weights.keys() == {"w.weight"}
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        places = {entry.filename: entry.header_offset for entry in archive.infolist()}

    def changed(where: int, new: bytes) -> str:
        path.write_bytes(data[:where] + new + data[where + len(new) :])
        return refusal(path)

    directory = data.index(b"PK\1\2")
    central = data.index(b"a/data/0", directory) - 46
    one, other = places["a/data/0"], places["a/version"]
    assert "overlaps another one" in changed(central + 42, struct.pack("<I", places["a/byteorder"]))
    assert "is not where" in changed(one + 30, b"a/data/9")
    assert "overlaps another one" in changed(one + 28, struct.pack("<H", 60_000))
    assert "overlaps another one" in changed(central + 20, struct.pack("<II", 5000, 5000))
    assert "is not where its directory says" in changed(central + 42, struct.pack("<I", other - 5))
    path.write_bytes(data + b"more")
    assert "something follows the end of the zip" in refusal(path)
    zipped(path, {**good, "a/b/data.pkl": b""})
    assert "it has 2 pickles instead of one" in refusal(path)
    zipped(path, {**good, "../x": b""})
    assert "lies beside the others" in refusal(path)
    zipped(path, {**good, "a/data.pkk": b""})
    path.write_bytes(path.read_bytes().replace(b"a/data.pkk", b"a/data.pkl"))
    assert "two of its entries have the same name" in refusal(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_cut_short(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a"
    if form == "safetensors":
        save = pytest.importorskip("safetensors.torch").save_file
        save({f"{n}.weight": torch.ones(9, 9) for n in range(9)}, path)
    else:
        torch.save(whole(), path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    for part in range(20):
        path.write_bytes(data[: len(data) * part // 20])
        refusal(path)
    path.write_bytes(data[:-1])
    refusal(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_every_damaged_byte_is_read_or_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a"
    state = {"a.weight": torch.ones(3), "b.weight": torch.ones(2, 2)}
    if form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    data = path.read_bytes()
    for place in range(0, len(data), 1 + len(data) // 150):
        for value in (0, 0xFF, data[place] ^ 0x10):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            try:
                for stored in open_checkpoint(path).weights.values():
                    stored.load().sum()
            except CheckpointError as error:
                assert "\n" not in str(error)  # noqa: PT017


def safe(path: Path, header: Any, data: bytes = bytes(16), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin: int = 0, end: int = 16, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LIES: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{" + b"x" * 20, "its header is not JSON"),
    "not text": (b"{\xff\xfe}", "its header is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "its header is not JSON"),
    "twice": (b'{"a":1,"a":2}', "its header has 'a' twice"),
    "no entry": ({"a": 5}, "'a' is not described by dtype, shape and data_offsets"),
    "too much": ({"a": {**entry(), "x": 1}}, "is not described by"),
    "metadata": ({"__metadata__": {"a": 1}, "a": entry()}, "is more than texts by name"),
    "negative": ({"a": entry(shape=[-4])}, "has the shape [-4]"),
    "float": ({"a": entry(shape=[4.0])}, "has the shape [4.0]"),
    "true": ({"a": entry(shape=[True])}, "has the shape [True]"),
    "huge": ({"a": entry(shape=[1 << 62, 4])}, "cannot have 16 bytes"),
    "product": ({"a": entry(shape=[5])}, "of shape [5] and type F32 cannot have 16 bytes"),
    "many dimensions": ({"a": entry(shape=[1] * 1000)}, "has the shape [1, 1,"),
    "outside": ({"a": entry(0, 20, [5])}, "claims the bytes 0 to 20 of 16"),
    "backward": ({"a": entry(16, 0)}, "claims the bytes 16 to 0 of 16"),
    "one offset": ({"a": {**entry(), "data_offsets": [0]}}, "has the offsets [0]"),
    "overlap": ({"a": entry(), "b": entry(8, 16, [2])}, "'b' overlaps another one"),
    "hole": ({"a": entry(8, 16, [2])}, "'a' follows a hole"),
    "rest": ({"a": entry(0, 8, [2])}, "its tensors have 8 bytes, and 16 follow its header"),
    "no type": ({"a": entry(dtype=3)}, "has no type"),
    "unhashable type": ({"a": entry(dtype=["F32"])}, "has no type"),
    "a name": ({"\n<b>\x1b[31m" + "x" * 500: 5}, "its tensor '\\n<b>\\x1b[31mxxx"),
}


@pytest.mark.parametrize("how", LIES)
def test_headers_that_lie(tmp_path: Path, how: str) -> None:
    header, told = LIES[how]
    assert told in refusal(safe(tmp_path / "a", header))


def test_header_lengths_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a"
    told = "its header claims 1,000,000,000,000 bytes, more than 100,000,000"
    assert told in refusal(safe(path, {"a": entry()}, length=10**12))
    assert "of a file of" in refusal(safe(path, {"a": entry()}, length=10**6))
    assert "its header is not JSON" in refusal(safe(path, {"a": entry()}, length=5))


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = ["a\nb", "<script>alert(1)</script>", "\x1b[31mred", "é✓", "x" * 5000, "a b/c\\d"]
    torch.save({name: torch.ones(2) for name in names}, tmp_path / "a")
    assert list(open_checkpoint(tmp_path / "a").weights) == names


def test_many_tensors(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A tenth of what must work, so that the test stays quick; the benchmark has them all."""
    count = 10_000
    torch.save({f"{n}.weight": torch.ones(1) for n in range(count)}, tmp_path / "a")
    started = time.process_time()
    assert len(open_checkpoint(tmp_path / "a").weights) == count
    seconds = time.process_time() - started
    record_property("measured", f"checkpoint of {count:,} tensors opened in {seconds:.1f} s")
