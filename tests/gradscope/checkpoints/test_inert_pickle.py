from __future__ import annotations

import collections
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from gradscope.checkpoints.pickles.inert_pickle import (
    Called,
    Global,
    NotInert,
    read_inert,
    read_pickle,
)

PLAIN: list[Any] = [
    None,
    True,
    -5,
    2**100,
    0.1,
    "text",
    b"bytes",
    [1, [2], (3, 4, 5, 6)],
    {"a": {"b": (1,)}, 2: None, (3, "c"): [()]},
    {1, 2},
    frozenset({3}),
    collections.OrderedDict(a=1),
    list(range(3000)),
    {number: str(number) for number in range(3000)},
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_what_they_were(protocol: int) -> None:
    for value in PLAIN:
        read = read_inert(pickle.dumps(value, protocol))
        if protocol < 4 and isinstance(value, bytes | set | frozenset) and read != value:
            assert isinstance(read, Called)  # old protocols call something to make these
        else:
            assert read == value


def test_what_is_shared_stays_shared() -> None:
    inner = [1]
    first, second = read_inert(pickle.dumps([inner, inner]))
    assert first is second


def test_calls_are_noted_and_not_made(tmp_path: Path) -> None:
    class Gadget:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'canary'}",), {"state": 1}, iter([2]), None

    for protocol in (2, 4):
        read = read_inert(pickle.dumps(Gadget(), protocol))
        assert isinstance(read, Called)
        assert isinstance(read.function, Global)
        assert str(read.function).endswith(".system")
        assert read.state == {"state": 1}
        assert read.items == [2]
    assert not (tmp_path / "canary").exists()


def test_names_that_are_not_allowed_are_refused() -> None:
    data = pickle.dumps(collections.Counter())
    allowed = {Global("collections", "Counter")}
    assert isinstance(read_inert(data, allowed), Called)
    with pytest.raises(NotInert, match=r"'collections\.Counter'"):
        read_inert(data, set())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"hello",
        b"\x80\x04",
        b"\x80\x04NN.",
        b"\x80\x02(N.",
        b"\x80\x02\x85.",
        b"\x80\x02t.",
        b"\x80\x02h\x05.",
        b"\x80\x02}(Nu.",
        b"\x80\x02}]Ns.",
        b"\x80\x02N]a.",
        b"\x80\x02NNb.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",
        b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x.",
        b"\x80\x02}" + b"(" * 100_000 + b".",
        b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
        b"\x80\x02Nr\xff\xff\xff\xff0.",
    ],
    ids=range(20),
)
def test_what_is_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(NotInert):
        read_inert(data)


def test_damaged_pickles_are_read_or_refused() -> None:
    random.seed(0)
    for value in PLAIN[:12]:
        whole = pickle.dumps(value)
        for _ in range(100):
            data = bytearray(whole)
            data[random.randrange(len(data))] = random.randrange(256)
            try:
                read_inert(bytes(data))
            except NotInert:
                continue


def test_small_pickles_take_little_memory() -> None:
    """An empty dict takes one byte in a pickle, and far more anywhere else."""
    with pytest.raises(NotInert, match="far more memory"):
        read_inert(b"\x80\x02](" + b"}" * 3_000_000 + b"e.")


def test_one_pickle_after_another() -> None:
    data = b"".join(pickle.dumps(value, 2) for value in ([1], "a", {"b": 2}))
    values, position = [], 0
    while position < len(data):
        read = read_pickle(data, position)
        values.append(read.value)
        position = read.end
    assert values == [[1], "a", {"b": 2}]
