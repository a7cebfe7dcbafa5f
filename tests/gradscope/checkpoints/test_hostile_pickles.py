"""Pickles that would run code or take memory: one sentence, and nothing runs."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gradscope.checkpoints import open_checkpoint
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.crooked import around, in_dict, refusal, tensor, text, zipped
from tests.gradscope.checkpoints.trained import whole


@pytest.fixture(autouse=True)
def proof(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A file that code in a checkpoint would make; it never does."""
    file = tmp_path_factory.mktemp("proof") / "ran"
    monkeypatch.setenv("PROOF", str(file))
    yield file
    assert not file.exists()


TOUCH = text("touch $PROOF")
CALLS = {
    "REDUCE": b"cposix\nsystem\n" + TOUCH + b"\x85R.",
    "INST": b"(" + TOUCH + b"iposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\n" + TOUCH + b"o.",
    "NEWOBJ": b"csubprocess\nPopen\n" + TOUCH + b"\x85\x81.",
    "BUILD": b"cargparse\nNamespace\n)R}" + text("a") + b"cposix\nsystem\nsb.",
    "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + TOUCH + b"\x85R.",
    "eval": b"cbuiltins\neval\n" + TOUCH + b"\x85R.",
    "__builtin__": b"c__builtin__\neval\n" + TOUCH + b"\x85R.",
    "getattr": b"cbuiltins\ngetattr\n" + b"ctorch\nload\n" + text("x") + b"\x86R.",
    "torch.load": b"ctorch\nload\n" + text("/etc/passwd") + b"\x85R.",
    "persistent": text("x") + b"Q.",
    "extension": b"\x82\x01.",
    "stand-in": b"cargparse\nNamespace\n)Rcposix\nsystem\nb.",
    "state of a tensor": b"ctorch._utils\n_rebuild_from_type_v2\n(cposix\nsystem\n"
    b"ctorch\nTensor\n" + TOUCH + b"\x85}tR.",
    "type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\n"
    b"ctorch\nTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85}tR.",
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_nothing_runs(tmp_path: Path, how: str, form: str) -> None:
    if form == "zip":
        path = zipped(tmp_path / "a", around(b"\x80\x02" + CALLS[how]))
    else:
        torch.save(1, tmp_path / "b", _use_new_zipfile_serialization=False)
        head = (tmp_path / "b").read_bytes()
        end = head.index(b"little_endian")
        end = head.index(b".", end) + 1
        path = tmp_path / "a"
        path.write_bytes(head[:end] + b"\x80\x02" + CALLS[how])
    message = refusal(path)
    if how in ("REDUCE", "eval", "torch.load"):
        assert "--trust-pickle, which runs any code in the file" in message
        named = {
            "REDUCE": "'posix.system'",
            "eval": "'builtins.eval'",
            "torch.load": "'torch.load'",
        }
        assert f"names {named[how]}" in message


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch $PROOF",)


@pytest.mark.parametrize("new", [True, False])
def test_code_runs_only_where_it_is_trusted(tmp_path: Path, new: bool, proof: Path) -> None:
    path = tmp_path / "a"
    torch.save({**whole(), "extra": Runs()}, path, _use_new_zipfile_serialization=new)
    assert "names 'posix.system'" in refusal(path)
    assert not proof.exists()
    assert open_checkpoint(path, trust_pickle=True).weights
    proof.unlink()


def test_what_a_trusted_file_raises_is_one_sentence(tmp_path: Path) -> None:
    data = b"\x80\x02csys\nexit\nK\x07\x85R."
    path = zipped(tmp_path / "a", around(data))
    with pytest.raises(CheckpointError, match=r"sys\.exit\(7\) was called"):
        open_checkpoint(path, trust_pickle=True)


def huge(function: bytes) -> bytes:
    return b"\x80\x02c" + function + b"\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."


def laughs() -> bytes:
    """A tuple of two of a tuple of two of a tuple, fifty times, as what is called."""
    return b"\x80\x02)" + b"q\x00h\x00\x86" * 50 + b")R."


CROOKED = {
    "a view that is longer": (in_dict(tensor(5)), "does not lie in its memory"),
    "a view that begins late": (in_dict(tensor(2, offset=3)), "does not lie in its memory"),
    "a view before the beginning": (in_dict(tensor(2, offset=-1)), "shape is damaged"),
    "a backward stride": (in_dict(tensor(2, offset=3, stride=-1)), "shape is damaged"),
    "a negative size": (in_dict(tensor(-2)), "shape is damaged"),
    "a huge view": (in_dict(tensor(1 << 60)), "does not lie in its memory"),
    "huge memory": (in_dict(tensor(4, count=1 << 60)), "16 bytes instead of"),
    "memory that is not there": (in_dict(tensor(4, key="7")), "0 bytes instead of 16"),
    "memory outside": (in_dict(tensor(4, key="../../a")), "0 bytes instead of 16"),
    "bytes without end": (huge(b"builtins\nbytearray"), "holds no tensors"),
    "a tensor without end": (huge(b"torch\nFloatTensor"), "names 'torch.FloatTensor'"),
    "storage without end": (
        huge(b"torch.storage\nUntypedStorage"),
        "holds no tensors",
    ),
    "a tuple without end": (laughs(), "holds no tensors"),
    "a key without end": (
        b"\x80\x02})" + b"q\x00h\x00\x86" * 50 + b"K\x01s.",
        "has a key that no checkpoint has",
    ),
    "a set without end": (
        b"\x80\x02cbuiltins\nset\n])" + b"q\x00h\x00\x86" * 50 + b"a\x85R.",
        "holds no tensors",
    ),
    "many copies of a text": (
        b"\x80\x02c_codecs\nencode\nq\x00"
        + text("x" * 100_000)
        + text("latin1")
        + b"\x86q\x01"
        + b"h\x00h\x01R0" * 3
        + b".",
        "ends in the middle",
    ),
    "copies of a text in a list": (
        b"\x80\x02](c_codecs\nencode\nq\x00"
        + text("x" * 1_000_000)
        + text("latin1")
        + b"\x86q\x01"
        + b"h\x00h\x01R" * 1000
        + b"e.",
        "holds no tensors",
    ),
    "memory of a type without end": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("
        + text("storage")
        + b")"
        + b"q\x00h\x00\x86" * 50
        + text("0")
        + text("cpu")
        + b"K\x04tQK\x00K\x04\x85K\x01\x85\x89NtR.",
        "memory of a type that is not known",
    ),
    "a parameter of a parameter": (
        b"\x80\x02ctorch._utils\n_rebuild_parameter\nq\x00K\x01\x85q\x010"
        + b"h\x00h\x01R\x85q\x010" * 10_000
        + b"h\x01R.",
        "a tensor or parameter in it is damaged",
    ),
    "many small objects": (b"\x80\x02](" + b"}" * 2_500_000 + b"e.", "far more memory"),
    "another protocol": (b"\x80\x06K\x01.", "a pickle of protocol 6"),
    "no end": (b"\x80\x02K\x01", "a pickle that is damaged"),
    "a text that is cut short": (b"\x80\x02X\xff\xff\xff\x7fa.", "is cut short"),
    "an empty stack": (b"\x80\x02R.", "is damaged"),
    "a memo that is not there": (b"\x80\x02h\x05.", "is damaged"),
    "nothing": (b"", "is damaged"),
    "a name of bytes": (b"\x80\x02cos\xff\nsystem\n.", "is damaged"),
    "a name without end": (b"\x80\x02c" + b"a" * 5000 + b"\nb\n.", "is damaged"),
    "a name of control characters": (b"\x80\x02ca\r<b>\x1b[31m\nb\n.", "names 'a\\r<b>"),
}


@pytest.mark.parametrize("how", CROOKED)
def test_crooked_pickles(tmp_path: Path, how: str) -> None:
    data, told = CROOKED[how]
    started = time.process_time()
    assert told in refusal(zipped(tmp_path / "a", around(data, _0=bytes(16))))
    assert time.process_time() - started < 30, "it must not hang"


@pytest.mark.parametrize("count", [10**12, 1000])
def test_the_old_format_claims_no_memory(tmp_path: Path, count: int) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "a", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a").read_bytes()
    small = b"K\x04Nt"
    assert data.count(small) == 1
    data = data.replace(small, b"\x8a\x08" + struct.pack("<q", count) + b"Nt")
    (tmp_path / "a").write_bytes(data)
    assert "has fewer bytes than it says" in refusal(tmp_path / "a")


def test_lists_that_hold_themselves(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {"w.weight": torch.ones(2)}
    ring["again"] = ring
    shared: list[Any] = [1.0]
    for _ in range(60):
        shared = [shared, shared]
    torch.save({"loop": loop, "ring": ring, "shared": shared}, tmp_path / "a")
    assert list(open_checkpoint(tmp_path / "a").weights) == ["w.weight"]


def test_an_optimizer_that_holds_itself(tmp_path: Path) -> None:
    saved = whole()
    group = saved["optimizer"]["param_groups"][0]
    group["loop"] = group
    saved["optimizer"]["state"][0]["loop"] = saved
    torch.save(saved, tmp_path / "a")
    assert open_checkpoint(tmp_path / "a").optimizers[0].matching == "all 9 by order and shape"


def test_deep_nesting(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    refusal(zipped(tmp_path / "a", around(deep)))
