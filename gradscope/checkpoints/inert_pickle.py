"""Reads a pickle as data: nothing that it names is imported, and nothing is called.

torch's weights-only unpickler reads protocol 2 alone, and what it allows it calls, with sizes that
the file chooses. Here what would be a class or a function is its name, and what would be a call is
a note of it, so that whoever asked can look at both and take what it knows. Memory grows with the
pickle's length and with nothing that stands in it.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NoReturn

__all__ = [
    "Called",
    "Global",
    "NotInert",
    "Persistent",
    "class_of_outermost",
    "read_inert",
]


class NotInert(ValueError):
    """Bytes that are no pickle, or one that needs more than plain data to be read."""


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


@dataclass(frozen=True, slots=True)
class Persistent:
    """What lies outside the pickle, such as a tensor's storage, by what the pickle calls it."""

    identity: Any


_ORDERED_DICT: Final = Global("collections", "OrderedDict")


def read_inert(data: bytes, allowed: Container[Global] | None = None) -> Any:
    """What the pickle holds: plain values, ``OrderedDict`` as dict, and notes for all else.

    Args:
        data: of the pickle.
        allowed: names that may stand in it; None for any.

    Raises:
        NotInert: it is damaged, not a pickle, or has a name that is not allowed.
    """
    reader = _Reader(allowed)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return reader.result()
            reader.step(opcode.name, argument)
    except NotInert:
        raise
    except Exception as error:
        # genops and hostile bytes make nearly every kind of error there is.
        raise NotInert(f"{type(error).__name__} in a pickle") from error
    raise NotInert("a pickle without an end")


def class_of_outermost(data: bytes, attributes: Collection[str], limit: int) -> Global | None:
    """The class of the outermost object, if it gets some attributes; None for anything else.

    Args:
        data: of the pickle, or its beginning.
        attributes: texts that have to occur, all of them.
        limit: how many operations are looked at.
    """
    reader, missing = _Reader(), set(attributes)
    try:
        for opcode, argument, _ in islice(pickletools.genops(io.BytesIO(data)), limit):
            if opcode.name == "STOP":
                break
            reader.step(opcode.name, argument)
            if isinstance(argument, str):
                missing.discard(argument)
                if not missing:
                    break
    except Exception:
        return None
    return None if missing else reader.outermost()


class _Reader:
    """A stack, as pickle's machine has it."""

    def __init__(self, allowed: Container[Global] | None = None) -> None:
        self.stack: list[Any] = []
        self._allowed = allowed
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            _refuse(f"{name} in a pickle")

    def result(self) -> Any:
        if len(self.stack) != 1 or self._outer:
            _refuse("a pickle that ends in the middle")
        return self.stack[0]

    def outermost(self) -> Global | None:
        """The class of the first object on the stack, or what will be called to make it."""
        first = next((part[0] for part in (*self._outer, self.stack) if part), None)
        if isinstance(first, Called):
            first = first.function
        # Until torch 1.6 the source of a module's class was saved with it.
        identity = first.identity if isinstance(first, Persistent) else None
        if type(identity) is tuple and len(identity) > 1 and identity[0] == "module":
            first = identity[1]
        return first if isinstance(first, Global) else None

    def ignore(self, _: Any) -> None:
        """What frames say, and the protocol, changes nothing here."""

    def mark(self, _: Any) -> None:
        self._outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self._outer.pop()
        return items

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.since_mark()

    def put(self, index: Any) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self._memo[index])

    def make_tuple(self, _: Any) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            _refuse("a pickle that takes what is not there")
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def make_list(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def make_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append({})
        self._set(items)

    def make_frozenset(self, _: Any) -> None:
        items = self.since_mark()
        _check_keys(items)
        self.stack.append(frozenset(items))

    def append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list | Called):
            target.extend(items)
        else:
            _refuse("a pickle that appends to what is no list")

    def add_items(self, _: Any) -> None:
        items = self.since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            _refuse("a pickle that adds to what is no set")
        _check_keys(items)
        target.update(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_items(self, _: Any) -> None:
        self._set(self.since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if type(target) is dict:
            _check_keys(items[::2])
            target.update(pairs)
        elif isinstance(target, Called):
            target.extend(pairs)
        else:
            _refuse("a pickle that sets items of what has none")

    def named(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._import(module, name)

    def stack_named(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            _refuse("a pickle that names a class by what is no text")
        self._import(module, name)

    def _import(self, module: str, name: str) -> None:
        found = Global(module, name)
        if self._allowed is not None and found not in self._allowed:
            _refuse(f"the name {str(found)!r:.100}, which does not belong there")
        self.stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        empty = function == _ORDERED_DICT and type(arguments) is tuple and not arguments
        self.stack.append({} if empty else Called(function, arguments))

    def call_with_keywords(self, _: Any) -> None:
        keywords, arguments, function = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Called(function, (arguments, keywords)))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Called):
            target.state = state
        elif type(target) is not dict:  # an OrderedDict has attributes, which nobody needs
            _refuse("a pickle that gives attributes to what has none")

    def persistent(self, _: Any) -> None:
        self.stack.append(Persistent(self.stack.pop()))


def _refuse(what: str) -> NoReturn:
    raise NotInert(what)


def _check_keys(keys: list[Any]) -> None:
    """The hash of tuples in tuples in tuples would overflow the stack of the interpreter itself."""
    for key in keys:
        flat = key if type(key) is tuple else (key,)
        if not all(isinstance(part, _KEYS) for part in flat):
            _refuse("a pickle whose dict has a key that no state dict has")


_KEYS: Final = (str, int, float, bytes, type(None), Global, Called)
_VALUES: Final = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: Final[dict[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: Final[dict[str, Callable[[_Reader, Any], None]]] = {
    "PROTO": _Reader.ignore,
    "FRAME": _Reader.ignore,
    "MARK": _Reader.mark,
    "POP": _Reader.pop,
    "POP_MARK": _Reader.pop_mark,
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.put,
    "GET": _Reader.get,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "TUPLE": _Reader.make_tuple,
    "TUPLE1": lambda reader, _: reader.short_tuple(1),
    "TUPLE2": lambda reader, _: reader.short_tuple(2),
    "TUPLE3": lambda reader, _: reader.short_tuple(3),
    "LIST": _Reader.make_list,
    "DICT": _Reader.make_dict,
    "FROZENSET": _Reader.make_frozenset,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.appends,
    "ADDITEMS": _Reader.add_items,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    "GLOBAL": _Reader.named,
    "STACK_GLOBAL": _Reader.stack_named,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.call,
    "NEWOBJ_EX": _Reader.call_with_keywords,
    "BUILD": _Reader.build,
    "BINPERSID": _Reader.persistent,
}
