"""Makes stored tensors of what ``torch.save`` wrote, without calling anything that it names.

The pickle is read as data (see inert_pickle), and tensors are taken from the bytes that it points
to, once they are asked for and once it is sure that the bytes are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.checkpoints.pickles.inert_pickle import (
    Called,
    Global,
    NotInert,
    Persistent,
    read_inert,
)
from gradscope.checkpoints.pickles.known_names import DICTS, DTYPES, ITEM_SIZES, LISTS, STORAGES
from gradscope.checkpoints.pickles.plain import DEPTH, TOO_DEEP, Unread
from gradscope.checkpoints.storage.regions import Region, Unreadable
from gradscope.checkpoints.storage.strided import Repeated, strided, whole_numbers
from gradscope.checkpoints.storage.zip_files import pickle_in, refuse_big_endian, regions_of_zip

__all__ = ["plain_tree", "read_saved", "storage_of"]


def read_saved(region: Region) -> Any:
    """The object that was saved in a part of a file, as ``plain_tree`` has it, of any names.

    Raises:
        Unreadable: it was not written by torch.save, or is damaged.
    """
    entries = regions_of_zip(region)
    pickle = pickle_in(entries)
    if pickle is None:
        raise Unreadable("it was not written by torch.save")
    root = pickle.removesuffix("data.pkl")
    refuse_big_endian(entries, root)
    try:
        value = read_inert(bytes(entries[pickle].read()))
    except NotInert as error:
        raise Unreadable(f"it holds {error}") from error
    return plain_tree(value, lambda key: entries.get(f"{root}data/{key}"), with_complex=True)


def plain_tree(
    value: Any, find: Callable[[str], Region | None], *, with_complex: bool = False
) -> Any:
    """What an inert pickle holds, with dict, list, str, int, float, bool, None, and StoredTensor.

    Anything else is Unread. Containers that are shared or hold themselves are the same or hold
    themselves in the result, too. Tensors that have memory and view of it in common become the
    same StoredTensor.

    Args:
        value: of the pickle.
        find: the memory of tensors, by its key; None where there is none.
        with_complex: whether complex tensors are read, too.

    Raises:
        Unreadable: it has a tensor that does not lie in the file.
    """
    return _Tree(find, with_complex).plain(value, 0)


class _Tree:
    def __init__(self, find: Callable[[str], Region | None], with_complex: bool) -> None:
        self._find = find
        self._with_complex = with_complex
        self._made: dict[int, Any] = {}
        self._tensors: dict[tuple[Any, ...], StoredTensor] = {}

    def plain(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if not isinstance(value, Called | dict | list | tuple):
            return Unread("")
        known = self._made.get(id(value))
        if known is not None:
            return known
        if depth >= DEPTH:
            return Unread(TOO_DEEP)
        if isinstance(value, Called):
            return self._called(value, depth)
        if isinstance(value, dict):
            return self._dict(value, value.items(), depth)
        return self._list(value, value, depth)

    def _dict(self, value: Any, pairs: Any, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self._made[id(value)] = made
        for key, item in pairs:
            if isinstance(key, str | int):
                made[key] = self.plain(item, depth + 1)
        return made

    def _list(self, value: Any, items: Any, depth: int) -> list[Any]:
        made: list[Any] = []
        self._made[id(value)] = made
        made.extend(self.plain(item, depth + 1) for item in items)
        return made

    def _called(self, called: Called, depth: int) -> Any:
        """What it would have made, as far as that is known."""
        function = called.function
        if not isinstance(function, Global):
            return Unread("")
        if function in _REBUILDERS:
            made: Any = self._tensor(called)
            self._made[id(called)] = made
            return made
        if function in DICTS:
            return self._dict(called, _pairs(called), depth)
        if function in LISTS:
            return self._list(called, [*_given(called), *(called.items or ())], depth)
        return Unread("")

    def _tensor(self, called: Called) -> StoredTensor | Unread:
        """The tensor that would have been rebuilt; for the same view of a storage the same."""
        function, arguments = _innermost(called)
        if function in _REASONS:
            return Unread(_REASONS[function])
        if function == _QUANTISED:
            return Unread(f"is quantised ({_quantised_type(arguments)})")
        if function == _SPARSE:
            return Unread(f"is sparse ({_layout(arguments)})")
        if function == _CLASS:
            return Unread(f"is a {arguments[1].name:.100}, which is not read")
        if function not in _STRIDED or len(arguments) < 4:
            raise Unreadable("a tensor in it is damaged")
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, Persistent):
            raise Unreadable("a tensor in it has no memory")
        kind, key, length = storage_of(storage)
        region = self._find(key)
        if region is None or region.length < length:
            held = 0 if region is None else region.length
            raise Unreadable(
                f"the memory {key!r:.60} of a tensor has {held:,} bytes instead of {length:,}"
            )
        region = _view(region, storage, ITEM_SIZES[kind])
        named: Any = kind
        if function == _TENSOR_WITH_TYPE:
            named = arguments[6] if len(arguments) > 6 else None
        dtype = _TYPES.get(named) if isinstance(named, Global) else None
        if dtype is None:
            return Unread(f"has the type {_told(named)}, which is not read")
        if dtype.is_complex and not self._with_complex:
            return Unread("is complex")
        sizes, steps = whole_numbers(shape), whole_numbers(strides)
        view: tuple[Any, ...] = (
            region,
            dtype,
            sizes,
            steps,
            offset if type(offset) is int else None,
        )
        if sizes is not None and 0 in sizes:
            view = (*view, id(called))  # those without memory have none in common
        if view not in self._tensors:
            try:
                self._tensors[view] = strided(region, dtype, sizes, steps, offset)
            except Repeated as error:
                return Unread(str(error))
        return self._tensors[view]


def _innermost(called: Called) -> tuple[Global, Any]:
    """The call that makes the tensor itself, without those that make it a parameter."""
    function, arguments = called.function, called.arguments
    for _ in range(_WRAPPERS):
        if type(arguments) is not tuple or not isinstance(function, Global) or not arguments:
            break
        if function == _FROM_TYPE and len(arguments) > 2:
            if arguments[1] not in _PLAIN_CLASSES:
                if isinstance(arguments[1], Global):
                    return _CLASS, arguments
                break
            function, arguments = arguments[0], arguments[2]
        elif function in _PARAMETERS and isinstance(arguments[0], Called):
            function, arguments = arguments[0].function, arguments[0].arguments
        elif function in _INNERMOST:
            return function, arguments
        else:
            break
    raise Unreadable("a tensor or parameter in it is damaged")


def storage_of(storage: Persistent) -> tuple[Global, str, int]:
    """The class of a tensor's memory, its key, and how many bytes it claims.

    Raises:
        Unreadable: it is something else.
    """
    identity = storage.identity
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Unreadable("it asks for something outside itself that is no tensor")
    kind, key, count = identity[1], identity[2], identity[4]
    size = ITEM_SIZES.get(kind) if isinstance(kind, Global) else None
    if size is None:
        raise Unreadable("a tensor in it has memory of a type that is not known")
    if type(key) is not str or type(count) is not int or count < 0:
        raise Unreadable("a tensor in it has memory that is damaged")
    return kind, key, count * size


def _view(region: Region, storage: Persistent, size: int) -> Region:
    """Before torch 0.4 a storage could be a part of another one."""
    view = storage.identity[5] if len(storage.identity) > 5 else None
    if view is None:
        return region
    numbers = whole_numbers(view[1:]) if type(view) is tuple and len(view) == 3 else None
    if numbers is None:
        raise Unreadable("a tensor in it has memory that is damaged")
    return region.part(numbers[0] * size, numbers[1] * size)


def _told(value: object) -> str:
    """A name; the text of anything else could be without end."""
    return f"{value!s:.80}" if isinstance(value, Global) else "unknown"


def _given(called: Called) -> Any:
    """The items that the first argument of a call has."""
    arguments = called.arguments
    first = arguments[0] if type(arguments) is tuple and arguments else ()
    return first if isinstance(first, dict | list | tuple) else ()


def _pairs(called: Called) -> list[tuple[Any, Any]]:
    given = _given(called)
    pairs = given.items() if isinstance(given, dict) else [*given, *(called.items or ())]
    return [(pair[0], pair[1]) for pair in pairs if type(pair) in (list, tuple) and len(pair) == 2]


def _quantised_type(arguments: Any) -> str:
    if not isinstance(arguments[0], Persistent):
        return "unknown"
    name = storage_of(arguments[0])[0].name
    return f"torch.{name.removesuffix('Storage').lower()}"


def _layout(arguments: Any) -> str:
    layout = arguments[0] if isinstance(arguments[0], Called) else None
    named = layout.arguments if layout is not None else None
    return named[0][:60] if type(named) is tuple and named and type(named[0]) is str else "unknown"


def _utils(*names: str) -> frozenset[Global]:
    return frozenset(Global("torch._utils", f"_rebuild_{name}") for name in names)


_WRAPPERS: Final = 8
"""Calls around that of a tensor: a parameter, and a class that is given attributes."""

_CLASS: Final = Global("torch", "Tensor")
_PARAMETER: Final = Global("torch.nn.parameter", "Parameter")
_PLAIN_CLASSES: Final = (_CLASS, _PARAMETER)
_STRIDED: Final = _utils("tensor", "tensor_v2", "tensor_v3")
_TENSOR_WITH_TYPE: Final = Global("torch._utils", "_rebuild_tensor_v3")
_QUANTISED: Final = Global("torch._utils", "_rebuild_qtensor")
_SPARSE: Final = Global("torch._utils", "_rebuild_sparse_tensor")
_FROM_TYPE: Final = Global("torch._tensor", "_rebuild_from_type_v2")
_PARAMETERS: Final = _utils("parameter", "parameter_with_state") | {_PARAMETER}
_REASONS: Final = {
    Global("torch._utils", "_rebuild_nested_tensor"): "is a nested tensor",
    Global("torch._utils", "_rebuild_meta_tensor_no_storage"): "has no numbers",
}
_INNERMOST: Final = _STRIDED | {*_REASONS, _QUANTISED, _SPARSE}
_REBUILDERS: Final = _INNERMOST | _PARAMETERS | {_FROM_TYPE}
_TYPES: Final = {
    **DTYPES,
    **STORAGES,
    **{Global("torch.cuda", named.name): dtype for named, dtype in STORAGES.items()},
}
