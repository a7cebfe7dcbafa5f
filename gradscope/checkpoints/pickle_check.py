"""Checks a pickle before torch's weights-only unpickler reads it; nothing in it is called here.

That unpickler runs no code of the file's, but it calls what it allows with whatever the file says:
``bytearray(10**12)``, a tensor larger than its storage, the text of a tuple that holds itself a
billion times over. So the operations are gone through once before, on a stack of notes instead of
objects, and what a checkpoint has no need of is refused. Time and memory grow with the pickle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gradscope.checkpoints.pickle_calls import (
    Dict,
    Global,
    Storage,
    called,
    named,
    plain_key,
    refuse,
    takes_attributes,
)

__all__ = ["Checked", "check_pickle"]

_MEMORY: Final = 1 << 29
"""Bytes that objects beside the tensors may take at least: half a million tensors need less."""

_MEMORY_PER_BYTE: Final = 8
"""And this much for each byte of the file."""


@dataclass(frozen=True)
class Checked:
    """What was seen in a pickle.

    Attributes:
        end: position after it.
        storages: in the order in which they are first asked for, by key.
        value: the object; lists and dicts are only noted.
    """

    end: int
    storages: dict[str, Storage]
    value: Any


def check_pickle(data: Any, start: int, size: int) -> Checked:
    """Goes through one pickle.

    Args:
        data: bytes or a memory map.
        start: where in it the pickle begins.
        size: of the file, in bytes.

    Raises:
        RefusedPickle: it is damaged or not what torch.save writes.
    """
    try:
        return _check(data, start, _MEMORY + _MEMORY_PER_BYTE * size)
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as error:
        refuse("is damaged", error)


def _check(data: Any, start: int, memory: int) -> Checked:
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[int, Any] = {}
    names: dict[bytes, Global] = {}
    storages: dict[str, Storage] = {}
    position = start
    length = len(data)
    int32, uint16, double = struct.Struct("<i"), struct.Struct("<H"), struct.Struct(">d")

    while True:
        operation = data[position]
        position += 1
        if operation == 0x71:  # BINPUT
            memo[data[position]] = stack[-1]
            position += 1
        elif operation == 0x72:  # LONG_BINPUT
            memo[int.from_bytes(data[position : position + 4], "little")] = stack[-1]
            position += 4
        elif operation == 0x68:  # BINGET
            stack.append(memo[data[position]])
            position += 1
        elif operation == 0x6A:  # LONG_BINGET
            stack.append(memo[int.from_bytes(data[position : position + 4], "little")])
            position += 4
        elif operation == 0x4B:  # BININT1
            stack.append(data[position])
            position += 1
        elif operation == 0x28:  # MARK
            outer.append(stack)
            stack = []
            memory -= 64
        elif operation == 0x74:  # TUPLE
            items = tuple(stack)
            stack = outer.pop()
            stack.append(items)
            memory -= 48 + 8 * len(items)
        elif operation == 0x52:  # REDUCE
            arguments = stack.pop()
            result, cost = called(stack[-1], arguments)
            stack[-1] = result
            memory -= cost
        elif operation == 0x58:  # BINUNICODE
            count = int.from_bytes(data[position : position + 4], "little")
            position += 4
            if count > length - position:
                refuse("is cut short")
            stack.append(str(data[position : position + count], "utf-8", "surrogatepass"))
            position += count
            memory -= 64 + 4 * count
        elif operation == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
            memory -= 48
        elif operation == 0x86:  # TUPLE2
            stack[-2:] = [(stack[-2], stack[-1])]
            memory -= 56
        elif operation == 0x87:  # TUPLE3
            stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            memory -= 64
        elif operation == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif operation == 0x51:  # BINPERSID
            stack[-1] = _storage(stack[-1], storages)
            memory -= 512
        elif operation in _CONSTANTS:
            stack.append(_CONSTANTS[operation])
            memory -= 8
        elif operation == 0x4D:  # BININT2
            stack.append(uint16.unpack(data[position : position + 2])[0])
            position += 2
            memory -= 32
        elif operation == 0x4A:  # BININT
            stack.append(int32.unpack(data[position : position + 4])[0])
            position += 4
            memory -= 32
        elif operation == 0x73:  # SETITEM
            stack.pop()
            _set(stack[-2], [stack.pop()])
            memory -= 128
        elif operation == 0x75:  # SETITEMS
            given, stack = stack, outer.pop()
            if len(given) % 2:
                refuse("is damaged")
            _set(stack[-1], given[::2])
            memory -= 64 * len(given)
        elif operation == 0x63:  # GLOBAL
            middle = data.find(b"\n", position, position + _NAME)
            end = data.find(b"\n", middle + 1, position + _NAME)
            if middle < 0 or end < 0:
                refuse("is damaged")
            name = bytes(data[position:end])
            if name not in names:
                module, _, attribute = name.decode("utf-8").partition("\n")
                names[name] = named(module, attribute)
            stack.append(names[name])
            position = end + 1
        elif operation in _NEW:
            stack.append(_NEW[operation]())
            memory -= 256
        elif operation == 0x61:  # APPEND
            item = stack.pop()
            _list(stack[-1]).append(item)
            memory -= 16
        elif operation == 0x65:  # APPENDS
            given, stack = stack, outer.pop()
            _list(stack[-1]).extend(given)
            memory -= 16 * len(given)
        elif operation == 0x47:  # BINFLOAT
            stack.append(double.unpack(data[position : position + 8])[0])
            position += 8
            memory -= 32
        elif operation in (0x8A, 0x55):  # LONG1, SHORT_BINSTRING
            count = data[position]
            text = bytes(data[position + 1 : position + 1 + count])
            if len(text) != count:
                refuse("is cut short")
            number = int.from_bytes(text, "little", signed=True)
            stack.append(number if operation == 0x8A else text.decode("utf-8"))
            position += 1 + count
            memory -= 48 + count
        elif operation == 0x81:  # NEWOBJ
            arguments = stack.pop()
            stack[-1], cost = called(stack[-1], arguments)
            memory -= cost
        elif operation == 0x62:  # BUILD
            state = stack.pop()
            if not takes_attributes(stack[-1], state):
                refuse("gives attributes to what has none")
        elif operation == 0x80:  # PROTO
            if data[position] != 2:
                refuse(
                    f"has pickle protocol {data[position]}, and torch's safe reader knows 2 alone"
                )
            position += 1
        elif operation == 0x2E:  # STOP
            return Checked(position, storages, stack[-1])
        else:
            refuse(f"has an operation that torch.save does not write ({operation:#04x})")
        if memory < 0:
            refuse("would take far more memory than the file is long")


def _storage(identity: Any, storages: dict[str, Storage]) -> Storage:
    if type(identity) is not tuple or len(identity) not in (5, 6):
        refuse("asks for something outside itself that is no tensor")
    kind, storage_type, key, _, count, *view = identity
    if kind != "storage" or not isinstance(storage_type, Global):
        refuse("asks for something outside itself that is no tensor")
    if type(key) is not str or type(count) is not int or count < 0:
        refuse("has a tensor whose memory is damaged")
    storage = storages.get(key)
    if storage is None:
        storage = Storage.of_type(storage_type, count)
        storages[key] = storage
    elif storage != Storage.of_type(storage_type, count):
        refuse(f"says of the memory {key!r:.40} two things")
    if view and view[0] is not None:
        return storage.part(view[0])
    return storage


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        refuse("appends to what is no list")
    return value


def _set(target: Any, keys: list[Any]) -> None:
    """The hash of a tuple of tuples of tuples may take forever; no key of a checkpoint is one."""
    if type(target) is not Dict:
        refuse("sets items of what has none")
    for key in keys:
        if type(key) is not str and not plain_key(key):
            refuse("has a key that no checkpoint has")
    target.length += len(keys)


_NAME: Final = 1000
"""Bytes that module and name of a class may have together."""

_CONSTANTS: Final[dict[int, Any]] = {0x4E: None, 0x88: True, 0x89: False}
_NEW: Final[dict[int, Callable[[], Any]]] = {0x5D: list, 0x7D: Dict}
