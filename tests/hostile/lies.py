"""Pickles that run nothing, but say what is not so, or would take memory or time without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.gadgets import call, encoded, name, tensor, text
from tests.hostile.pickles import around, legacy
from tests.hostile.valid import exported, zipped

__all__ = ["pickle_lies"]

Write = Callable[[Path], Path]

_BIG = 1 << 62


def pickle_lies() -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it."""
    for wrong, data in _tensors().items():
        whole = b"\x80\x02}" + text("w.weight") + data + b"s."
        yield from _both(wrong, whole)
    for wrong, data in _bombs().items():
        yield from _both(wrong, b"\x80\x02" + data)
    for wrong, data in _harmless().items():
        yield from _both(wrong, b"\x80\x02" + data, odd=True)
    for wrong, (sizes, strides, offset) in _views().items():

        def write(
            path: Path, sizes: object = sizes, strides: object = strides, offset: object = offset
        ) -> Path:
            return exported(path, sizes, strides, offset)

        yield f"a tensor with {wrong} in an exported program", wrong == "no stride", write


def _both(wrong: str, data: bytes, odd: bool = False) -> Iterator[tuple[str, bool, Write]]:
    def old(path: Path) -> Path:
        path.write_bytes(legacy(data))
        return path

    yield f"{wrong} in a zip", odd, lambda path: zipped(path, around(data))
    yield f"{wrong} in an old file", odd, old


def _views() -> dict[str, tuple[tuple[int, ...], tuple[int, ...], int]]:
    return {
        "more elements": ((5,), (1,), 0),
        "a late beginning": ((4,), (1,), 1),
        "a beginning before": ((4,), (1,), -1),
        "a negative size": ((-4,), (1,), 0),
        "two negative sizes": ((-2, -2), (1, 1), 0),
        "a negative stride": ((4,), (-1,), 3),
        "a huge expansion": ((1 << 40,), (0,), 0),
        "a huge matrix without strides": ((1 << 20, 1 << 20), (0, 0), 0),
        "a size that overflows": ((_BIG, 4), (1, 1), 0),
        "sizes whose product overflows to four": ((1 << 32, (1 << 32) + 4), (0, 0), 0),
        "a stride that overflows": ((2, 2), (_BIG, 1), 0),
        "a size beyond 64 bits": ((1 << 70,), (1,), 0),
        "a beginning beyond 64 bits": ((1,), (1,), 1 << 70),
        "fewer strides": ((2, 2), (1,), 0),
        "a hundred thousand dimensions": ((1,) * 100_000, (1,) * 100_000, 0),
    }


def _tensors() -> dict[str, bytes]:
    told = {
        f"a tensor with {wrong}": tensor(sizes, strides, offset)
        for wrong, (sizes, strides, offset) in _views().items()
    }
    deep = b"".join([b"(" * 2000, b"t" * 2000])
    return {
        **told,
        "memory that is larger than the file": tensor(count=1 << 40),
        "memory that is larger than all": tensor(count=_BIG),
        "memory beyond 64 bits": tensor(count=1 << 80),
        "negative memory": tensor(count=-4),
        "memory that is not there": tensor(key="1"),
        "memory outside": tensor(key="../../../etc/passwd"),
        "memory at an absolute path": tensor(key="/etc/passwd"),
        "memory of no name": tensor(key=""),
        "memory of a name with NUL": tensor(key="0\0"),
        "memory of a type that is none": tensor(kind="Tensor"),
        "memory of a module": tensor(kind="nn"),
        "memory told twice": tensor() + b"0" + tensor(kind="DoubleStorage"),
        "memory of doubles": tensor(kind="DoubleStorage"),
        "a persistent id that is a text": text("storage") + b"Q",
        "a persistent id that is nothing": b"NQ",
        "a persistent id of deep tuples": deep + b"Q",
        "a tensor of a tensor": encoded(name("torch._utils._rebuild_tensor_v2"))
        + b"("
        + tensor() * 7
        + b"tR",
        "a tensor without arguments": encoded(call("torch._utils._rebuild_tensor_v2")),
        "a parameter of nothing": encoded(call("torch._utils._rebuild_parameter", None, True, {})),
    }


def _bombs() -> dict[str, bytes]:
    laughs = b"q\x00h\x00\x86" * 60
    encode = b"c_codecs\nencode\nq\x00" + text("x" * 100_000) + text("latin1") + b"\x86q\x01"
    return {
        "a call of a tuple without end": b")" + laughs + b")R.",
        "a key without end": b"})" + laughs + b"K\x01s.",
        "a key of a list": b"}]K\x01s.",
        "a set without end": encoded(name("builtins.set")) + b"])" + laughs + b"a\x85R.",
        "bytes without end": encoded(call("builtins.bytearray", 1 << 40)) + b".",
        "a text that is longer than the file": b"X\xff\xff\xff\x7fa.",
        "a long text that is longer": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        "a number that is longer": b"\x8b\xff\xff\xff\x7f\x00.",
        "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "copies of a text": encode + b"](" + b"h\x00h\x01R" * 40_000 + b"e.",
        "many empty dicts": b"](" + b"}" * 2_500_000 + b"e.",
        "lists in lists in lists": b"]" * 500_000 + b"a" * 499_999 + b".",
        "marks that are never used": b"(" * 1_000_000 + b".",
        "an empty stack": b"R.",
        "a memo that is not there": b"h\x05.",
        "a huge memo": b"Nr\xff\xff\xff\xff.",
        "an extension": b"\x82\x01.",
        "an extension of four bytes": b"\x84\xff\xff\xff\x7f.",
        "a buffer from outside": b"\x97.",
        "a class without end": b"c" + b"a" * 5000 + b"\nb\n.",
        "a class that is no text": b"cos\xff\nsystem\n.",
        "a class with control characters": b"ca\r<b>\x1b[31m\nb\n.",
        "a class with bidirectional marks": encoded(name("a\u202e.\u2066b")) + b".",
        "no operation": b"",
        "no end": b"K\x01",
        "a hundred thousand tensors without memory": b"}("
        + b"".join(
            text(f"w{number}") + tensor(key=str(number + 1)) for number in range(100_000 // 50)
        )
        + b"u.",
        "a hundred thousand keys with nothing behind them": b"}("
        + b"".join(text(f"w{number}.weight") + b"N" for number in range(100_000))
        + b"u.",
        "a number alone": b"K\x01.",
        "nothing alone": b"N.",
        "numbers that are no tensors": b"}" + text("w") + b"G\x7f\xf8\0\0\0\0\0\0s.",
    }


def _harmless() -> dict[str, bytes]:
    """Strange beside a good tensor, which may be read."""
    good = text("w.weight") + tensor() + b"s"
    shared = b"]" + b"".join(
        b"q" + bytes([n]) + b"](h" + bytes([n]) * 1 + b"h" + bytes([n]) + b"e" for n in range(60)
    )
    return {
        "a list that holds itself": b"}" + good + text("loop") + b"]q\x00h\x00as.",
        "a dict that holds itself": b"}q\x00" + good + text("loop") + b"h\x00s.",
        "a list shared sixty times": b"}" + good + text("deep") + shared + b"s.",
        "an optimizer that holds itself": b"}"
        + good
        + text("optimizer")
        + b"}q\x00("
        + text("state")
        + b"h\x00"
        + text("param_groups")
        + b"](h\x00eus.",
        "a hundred thousand keys beside a tensor": b"}"
        + good
        + b"("
        + b"".join(text(f"w{number}") + b"N" for number in range(100_000))
        + b"u.",
        "ten thousand names of one tensor": b"}"
        + good
        + text("x")
        + tensor()
        + b"q\x00s("
        + b"".join(text(f"w{number}.weight") + b"h\x00" for number in range(10_000))
        + b"u.",
        "a tensor without elements but with sizes": b"}"
        + good
        + text("empty")
        + tensor((0, _BIG), (1, 1))
        + b"s.",
        "numbers as keys": b"}" + good + b"K\x01" + tensor() + b"s.",
        "lists a thousand deep": b"}" + good + text("deep") + b"]" * 1000 + b"a" * 999 + b"s.",
    }
