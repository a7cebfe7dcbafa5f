"""What a pickle may be made of once it is read as data, and how its parts are put together."""

from __future__ import annotations

import codecs
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

__all__ = [
    "LINES",
    "ORDERED_DICT",
    "Called",
    "Global",
    "NotInert",
    "Persistent",
    "UnknownName",
    "collect",
    "extend",
    "named",
    "of_bytes",
    "refuse",
    "set_items",
]


class NotInert(ValueError):
    """Bytes that are no pickle, or one that needs more than plain data to be read."""


class UnknownName(NotInert):
    """A name that is not allowed.

    Attributes:
        name: of a class or a function, with its module.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name!r:.100}, which does not belong there")
        self.name = name


@dataclass(frozen=True, slots=True)
class Global:
    """What would be imported: a class or a function, by name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False, slots=True)
class Called:
    """What would be called, and what would be done with what it returned.

    Attributes:
        function: mostly a Global, but a pickle can name anything.
        arguments: of the call.
        state: what would be given to ``__setstate__`` or to the attributes; None without any.
        items: what would be appended or added, or pairs that would be set, in their order.
    """

    function: object
    arguments: object
    state: object = None
    items: list[Any] | None = None

    def extend(self, items: Iterable[Any]) -> None:
        if self.items is None:
            self.items = []
        self.items.extend(items)


@dataclass(eq=False, slots=True)
class Persistent:
    """What lies outside the pickle, such as a tensor's storage, by what the pickle calls it."""

    identity: Any


def named(module: str, name: str, allowed: Container[Global] | None) -> Global:
    """What a name means; those of Python 2 become those of Python 3."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    else:
        module = IMPORT_MAPPING.get(module, module)
    found = Global(module, name)
    if allowed is not None and found not in allowed:
        raise UnknownName(str(found))
    return found


def of_bytes(operation: int, data: bytes) -> Any:
    """A whole number, a text of Python 2, or the bytes themselves."""
    if operation in (0x8A, 0x8B):  # LONG1, LONG4
        return int.from_bytes(data, "little", signed=True)
    return _old_text(data) if operation in (0x54, 0x55) else data


def _old_text(data: bytes) -> str:
    """A text of Python 2, which did not tell it from bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        refuse("a pickle that is damaged")
    return _old_text(codecs.escape_decode(line[1:-1])[0])


def _whole(line: bytes) -> int:
    """What INT and LONG write; protocol 0 has truth as one of two numbers."""
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


def extend(target: Any, items: list[Any]) -> None:
    """What APPEND and APPENDS do."""
    if not isinstance(target, list | Called):
        refuse("a pickle that appends to what is no list")
    target.extend(items)


def set_items(target: Any, items: list[Any]) -> None:
    """What SETITEM and SETITEMS do; keys and values take turns."""
    pairs = zip(items[::2], items[1::2], strict=True)
    if type(target) is dict:
        _check_keys(items[::2])
        target.update(pairs)
    elif isinstance(target, Called):
        target.extend(pairs)
    else:
        refuse("a pickle that sets items of what has none")


def collect(operation: int, stack: list[Any], items: list[Any]) -> None:
    """What LIST, DICT, FROZENSET and ADDITEMS do with the items since the mark."""
    if operation == 0x6C:  # LIST
        stack.append(items)
    elif operation == 0x64:  # DICT
        stack.append({})
        set_items(stack[-1], items)
    elif operation == 0x91:  # FROZENSET
        _check_keys(items)
        stack.append(frozenset(items))
    else:
        if type(stack[-1]) is not set:
            refuse("a pickle that adds to what is no set")
        _check_keys(items)
        stack[-1].update(items)


def _check_keys(keys: list[Any]) -> None:
    """The hash of tuples in tuples in tuples would overflow the stack of the interpreter itself."""
    for key in keys:
        if type(key) is str:
            continue
        flat = key if type(key) is tuple else (key,)
        if not all(isinstance(part, _KEYS) for part in flat):
            refuse("a pickle whose dict has a key that no checkpoint has")


def refuse(what: str) -> NoReturn:
    """Raises NotInert."""
    raise NotInert(what)


ORDERED_DICT: Final = Global("collections", "OrderedDict")
_KEYS: Final = (str, int, float, bytes, type(None), Global, Called)
LINES: Final[dict[int, Callable[[bytes], Any]]] = {
    0x49: _whole,  # INT
    0x4C: _whole,  # LONG
    0x46: float,  # FLOAT
    0x53: _quoted,  # STRING
    0x56: lambda line: line.decode("raw-unicode-escape"),  # UNICODE
    0x67: int,  # GET
    0x70: int,  # PUT
}
