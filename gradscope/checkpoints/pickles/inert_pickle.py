"""Reads a pickle as data: nothing that it names is imported, and nothing is called.

What would be a class or a function is its name, and what would be a call is a note of it, so that
whoever asked can look at both and take what it knows. Memory grows with the pickle's length and
with nothing that stands in it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Final

from gradscope.checkpoints.pickles.inert_values import (
    LINES,
    ORDERED_DICT,
    Called,
    Global,
    NotInert,
    Persistent,
    UnknownName,
    collect,
    extend,
    named,
    of_bytes,
    refuse,
    set_items,
)

__all__ = [
    "Called",
    "Global",
    "NotInert",
    "Persistent",
    "Pickle",
    "UnknownName",
    "class_of_outermost",
    "read_inert",
    "read_pickle",
]


@dataclass
class Pickle:
    """What was read.

    Attributes:
        stack: of pickle's machine; the object alone where all was read.
        outer: what lay on the stack before each mark, outermost first.
        persistent: all that lies outside, in the order in which it is asked for.
        end: position behind the pickle.
    """

    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    persistent: list[Persistent] = field(default_factory=list)
    end: int = 0

    @property
    def value(self) -> Any:
        return self.stack[0]


def read_inert(data: bytes, allowed: Container[Global] | None = None) -> Any:
    """What the pickle holds: plain values, ``OrderedDict`` as dict, and notes for all else.

    Args:
        data: of the pickle.
        allowed: names that may stand in it; None for any.

    Raises:
        NotInert: it is damaged, not a pickle, or has a name that is not allowed.
    """
    return read_pickle(data, 0, allowed).value


def read_pickle(
    data: bytes | mmap.mmap, start: int = 0, allowed: Container[Global] | None = None
) -> Pickle:
    """The same of a pickle that begins somewhere in the data, with its end.

    Raises:
        NotInert: as above.
    """
    read = Pickle()
    _run(data, start, read, allowed, set(), None)
    if len(read.stack) != 1 or read.outer:
        refuse("a pickle that ends in the middle")
    return read


def class_of_outermost(data: bytes, attributes: Collection[str], limit: int) -> Global | None:
    """The class of the outermost object, if it gets some attributes; None for anything else.

    Args:
        data: of the pickle, or its beginning.
        attributes: texts that have to occur, all of them.
        limit: how many operations are looked at.
    """
    read, missing = Pickle(), set(attributes)
    try:
        _run(data, 0, read, None, missing, limit)
    except NotInert:
        return None
    if missing:
        return None
    first = next((part[0] for part in (*read.outer, read.stack) if part), None)
    if isinstance(first, Called):
        first = first.function
    # Until torch 1.6 the source of a module's class was saved with it.
    identity = first.identity if isinstance(first, Persistent) else None
    if type(identity) is tuple and len(identity) > 1 and identity[0] == "module":
        first = identity[1]
    return first if isinstance(first, Global) else None


def _run(
    data: bytes | mmap.mmap,
    start: int,
    read: Pickle,
    allowed: Container[Global] | None,
    missing: set[str],
    limit: int | None,
) -> None:
    """Reads until the end, until no text is missing any more, or until the limit."""
    try:
        _steps(data, start, read, allowed, missing, limit)
    except NotInert:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise NotInert("a pickle that is damaged") from error


def _steps(
    data: bytes | mmap.mmap,
    position: int,
    read: Pickle,
    allowed: Container[Global] | None,
    missing: set[str],
    limit: int | None,
) -> None:
    """Pickle's machine. The operations that tensors are made of come first.

    ``memory`` is what may still be taken, roughly: small pickles of many empty dicts, which take
    one byte each, are what it ends.
    """
    stack, outer, persistent = read.stack, read.outer, read.persistent
    memo: dict[int, Any] = {}
    names: dict[bytes, Global] = {}
    length = len(data)
    memory = _MEMORY + _MEMORY_PER_BYTE * (length - position)
    number, is_watched = int.from_bytes, bool(missing)

    for _ in repeat(None) if limit is None else repeat(None, limit):
        operation = data[position]
        position += 1
        if operation == 0x71:  # BINPUT
            memo[data[position]] = stack[-1]
            memory -= _ENTRY
            position += 1
        elif operation == 0x72:  # LONG_BINPUT
            memo[number(data[position : position + 4], "little")] = stack[-1]
            memory -= _ENTRY
            position += 4
        elif operation == 0x68:  # BINGET
            stack.append(memo[data[position]])
            position += 1
        elif operation == 0x6A:  # LONG_BINGET
            stack.append(memo[number(data[position : position + 4], "little")])
            position += 4
        elif operation == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
            memory -= _ENTRY
        elif operation == 0x4B:  # BININT1
            stack.append(data[position])
            position += 1
        elif operation == 0x28:  # MARK
            outer.append(stack)
            stack = read.stack = []
            memory -= 64
        elif operation == 0x74:  # TUPLE
            items = tuple(stack)
            stack = read.stack = outer.pop()
            stack.append(items)
            memory -= 48 + 8 * len(items)
        elif operation in (0x52, 0x81):  # REDUCE, NEWOBJ
            arguments = stack.pop()
            if arguments == () and stack[-1] == ORDERED_DICT:
                stack[-1] = {}
            else:
                stack[-1] = Called(stack[-1], arguments)
            memory -= 256
        elif operation in _TEXTS:
            width = _TEXTS[operation]
            count = number(data[position : position + width], "little")
            position += width
            if count > length - position:
                refuse("a pickle that is cut short")
            text = str(data[position : position + count], "utf-8", "surrogatepass")
            position += count
            stack.append(text)
            memory -= 64 + 4 * count
            if is_watched:
                missing.discard(text)
                if not missing:
                    return
        elif 0x85 <= operation <= 0x87:  # TUPLE1 to TUPLE3
            count = operation - 0x84
            if len(stack) < count:
                refuse("a pickle that takes what is not there")
            stack[-count:] = [tuple(stack[-count:])]
            memory -= 64
        elif operation == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif operation == 0x51:  # BINPERSID
            stack[-1] = Persistent(stack[-1])
            persistent.append(stack[-1])
            memory -= 512
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
            memory -= 8
        elif operation in _NUMBERS:
            packed = _NUMBERS[operation]
            stack.append(packed.unpack(data[position : position + packed.size])[0])
            position += packed.size
            memory -= 32
        elif operation == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            set_items(stack[-1], [key, value])
            memory -= 128
        elif operation == 0x75:  # SETITEMS
            given, stack = stack, outer.pop()
            read.stack = stack
            set_items(stack[-1], given)
            memory -= 64 * len(given)
        elif operation == 0x63:  # GLOBAL
            middle = data.find(b"\n", position, position + _NAME)
            end = data.find(b"\n", middle + 1, position + _NAME)
            if middle < 0 or end < 0:
                refuse("a pickle that is damaged")
            name = bytes(data[position:end])
            if name not in names:
                module, _, attribute = name.decode("utf-8").partition("\n")
                names[name] = named(module, attribute, allowed)
            stack.append(names[name])
            position = end + 1
        elif operation == 0x93:  # STACK_GLOBAL
            value, key = stack.pop(), stack.pop()
            if type(value) is not str or type(key) is not str:
                refuse("a pickle that names a class by what is no text")
            stack.append(named(key, value, allowed))
            memory -= 256
        elif operation in _NEW:
            stack.append(_NEW[operation]())
            memory -= 256
        elif operation == 0x61:  # APPEND
            value = stack.pop()
            extend(stack[-1], [value])
            memory -= 16
        elif operation == 0x65:  # APPENDS
            given, stack = stack, outer.pop()
            read.stack = stack
            extend(stack[-1], given)
            memory -= 16 * len(given)
        elif operation in _LENGTHS:
            width = _LENGTHS[operation]
            count = number(data[position : position + width], "little")
            position += width
            if count > length - position:
                refuse("a pickle that is cut short")
            stack.append(of_bytes(operation, data[position : position + count]))
            position += count
            memory -= 64 + 4 * count
        elif operation in (0x6C, 0x64, 0x90, 0x91):  # LIST, DICT, ADDITEMS, FROZENSET
            given, stack = stack, outer.pop()
            read.stack = stack
            collect(operation, stack, given)
            memory -= 256 + 64 * len(given)
        elif operation == 0x62:  # BUILD
            value = stack.pop()
            if isinstance(stack[-1], Called):
                stack[-1].state = value
            elif type(stack[-1]) is not dict:  # an OrderedDict's attributes are of no use
                refuse("a pickle that gives attributes to what has none")
        elif operation == 0x92:  # NEWOBJ_EX
            keywords, arguments = stack.pop(), stack.pop()
            stack[-1] = Called(stack[-1], (arguments, keywords))
            memory -= 256
        elif operation == 0x30:  # POP
            stack.pop()
        elif operation == 0x31:  # POP_MARK
            stack = read.stack = outer.pop()
        elif operation == 0x80:  # PROTO
            if data[position] > _NEWEST:
                refuse(f"a pickle of protocol {data[position]}, which is not known")
            position += 1
        elif operation == 0x95:  # FRAME
            position += 8
        elif operation in LINES:
            end = data.find(b"\n", position)
            if end < 0:
                refuse("a pickle that is cut short")
            line = bytes(data[position:end])
            memory -= 64 + 4 * len(line)
            position = end + 1
            if operation == 0x70:  # PUT
                memo[int(line)] = stack[-1]
                memory -= _ENTRY
            else:
                stack.append(memo[int(line)] if operation == 0x67 else LINES[operation](line))
        elif operation == 0x2E:  # STOP
            read.end = position
            return
        else:
            refuse(f"an operation in a pickle that torch.save does not write ({operation:#04x})")
        if memory < 0:
            refuse("a pickle that would take far more memory than it is long")


_ENTRY: Final = 100
"""Bytes of a note of where something is, of which a pickle may make one a byte."""

_MEMORY: Final = 1 << 29
"""Bytes that objects may take at least: half a million tensors need less."""

_MEMORY_PER_BYTE: Final = 8
"""And this much for each byte that follows."""

_NAME: Final = 1000
"""Bytes that module and name of a class may have together."""

_NEWEST: Final = 5
_CONSTANTS: Final[dict[int, Any]] = {0x4E: None, 0x88: True, 0x89: False}
_NEW: Final[dict[int, Callable[[], Any]]] = {0x5D: list, 0x7D: dict, 0x8F: set}
_NUMBERS: Final = {0x4D: struct.Struct("<H"), 0x4A: struct.Struct("<i"), 0x47: struct.Struct(">d")}
_TEXTS: Final = {0x58: 4, 0x8C: 1, 0x8D: 8}
"""BINUNICODE, SHORT_BINUNICODE, BINUNICODE8: how many bytes tell the length."""

_LENGTHS: Final = {
    0x8A: 1,
    0x8B: 4,
    0x55: 1,
    0x54: 4,
    0x43: 1,
    0x42: 4,
    0x8E: 8,
    0x96: 8,
}
"""The same of LONG1, LONG4, SHORT_BINSTRING, BINSTRING, SHORT_BINBYTES, BINBYTES, BINBYTES8 and
BYTEARRAY8."""
