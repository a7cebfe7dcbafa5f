"""What a checkpoint's pickle may name and call, and which arguments are meant by it."""

from __future__ import annotations

import math
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import torch

from gradscope.checkpoints.stand_ins import STAND_INS

__all__ = [
    "Called",
    "Dict",
    "Global",
    "RefusedPickle",
    "Storage",
    "UnknownGlobal",
    "called",
    "named",
    "plain_key",
    "refuse",
    "takes_attributes",
]


class RefusedPickle(ValueError):
    """Why a pickle is not read, as the end of a sentence that begins with its name."""


class UnknownGlobal(RefusedPickle):
    """It names a class or function that no weights need; the message is that name."""


def refuse(reason: str, cause: BaseException | None = None) -> NoReturn:
    """Raises RefusedPickle."""
    raise RefusedPickle(reason) from cause


@dataclass(frozen=True, slots=True)
class Global:
    """A class, a function or a constant, by name."""

    name: str


@dataclass(slots=True)
class Dict:
    """A dict of so many entries."""

    length: int = 0


class Called:
    """What a call has made."""


class _Tensor(Called):
    """A tensor that lies within its storage."""


class _StandIn(Called):
    """What takes any attributes."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of tensors.

    Attributes:
        count: of elements.
        itemsize: of an element, in bytes.
    """

    count: int
    itemsize: int

    @property
    def nbytes(self) -> int:
        return self.count * self.itemsize

    @classmethod
    def of_type(cls, storage_type: Global, count: int) -> Storage:
        itemsize = _STORAGES.get(storage_type.name)
        if itemsize is None:
            refuse(f"has memory of an unknown type ({storage_type.name:.80})")
        return cls(count, itemsize)

    def part(self, view: Any) -> Storage:
        if type(view) is not tuple or len(view) != 3 or not _whole(view[1:]):
            refuse("has a tensor whose memory is damaged")
        if view[1] + view[2] > self.count:
            refuse("has a tensor that does not lie in its memory")
        return Storage(view[2], self.itemsize)


def named(module: str, name: str) -> Global:
    """What a pickle means by a name; those of Python 2 become those of Python 3, as torch does.

    Raises:
        UnknownGlobal: no checkpoint of weights needs it.
    """
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    else:
        module = IMPORT_MAPPING.get(module, module)
    full = f"{module}.{name}"
    if full not in _KNOWN:
        raise UnknownGlobal(full)
    return Global(full)


def called(function: Any, arguments: Any) -> tuple[Any, int]:
    """What a call makes, as a note, and the bytes that it takes.

    Raises:
        RefusedPickle: it is none that torch.save writes.
    """
    if type(function) is not Global or type(arguments) is not tuple:
        refuse("calls what is no function")
    call = _CALLS.get(function.name)
    if call is None:
        refuse(f"calls {function.name:.80}, which torch.save never writes")
    return call(*arguments)


def takes_attributes(target: Any, state: Any) -> bool:
    """Whether attributes are set as in a checkpoint: of an OrderedDict, or of what is dropped."""
    return isinstance(target, _StandIn) or (type(target) is Dict and type(state) is Dict)


def plain_key(key: Any) -> bool:
    """Whether it can be a key: a text, a number, a torch.dtype, or a tuple of such.

    The hash of a tuple of tuples of tuples may take forever.
    """
    return all(type(part) in _KEYS for part in (key if type(key) is tuple else (key,)))


def _whole(values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _DIMENSIONS or not _whole(value):
        refuse("has a tensor whose shape is damaged")
    return tuple(value)


def _within(storage: Any, itemsize: int, offset: Any, size: Any, stride: Any) -> None:
    """A view that is larger than its memory would make torch allocate more."""
    if not isinstance(storage, Storage):
        refuse("has a tensor without memory")
    sizes, strides = _sizes(size), _sizes(stride)
    if len(sizes) != len(strides) or not _whole([offset]):
        refuse("has a tensor whose shape is damaged")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if all(sizes) and (last + 1) * itemsize > storage.nbytes:
        refuse(f"has a tensor of shape {sizes!s:.80} that does not lie in its memory")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> tuple[Any, int]:
    _within(storage, getattr(storage, "itemsize", 1), offset, size, stride)
    return _TENSOR, _OBJECT


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> tuple[Any, int]:
    _within(storage, _DTYPES[dtype.name], offset, size, stride)
    return _TENSOR, _OBJECT


def _quantised(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> tuple[Any, int]:
    _within(storage, getattr(storage, "itemsize", 1), offset, size, stride)
    if math.prod(_sizes(size)) > storage.count:
        refuse("has a quantised tensor that is larger than its memory")
    return _TENSOR, _OBJECT + storage.nbytes


def _parameter(tensor: Any, *_: Any) -> tuple[Any, int]:
    if not isinstance(tensor, _Tensor):
        refuse("has a parameter that is no tensor")
    return _TENSOR, _OBJECT


def _tensor_without_numbers(*_: Any) -> tuple[Any, int]:
    return _TENSOR, _OBJECT


def _from_type(function: Any, kind: Any, arguments: Any, *_: Any) -> tuple[Any, int]:
    rebuild = function.name if type(function) is Global else ""
    if not rebuild.startswith("torch._utils._rebuild_") or kind not in _TENSOR_CLASSES:
        refuse("has a tensor of a class of its own")
    return called(function, arguments)


def _ordered_dict(*given: Any) -> tuple[Any, int]:
    pairs = given[0] if given else []
    if type(pairs) is not list or len(given) > 1:
        refuse("has a damaged OrderedDict")
    if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        refuse("has a damaged OrderedDict")
    if not all(plain_key(key) for key, _ in pairs):
        refuse("has a key that no checkpoint has")
    return Dict(len(pairs)), _OBJECT + 128 * len(pairs)


def _counter(*given: Any) -> tuple[Any, int]:
    if not all(type(value) is Dict for value in given):
        refuse("has a damaged Counter")
    length = sum(value.length for value in given)
    return Dict(length), _OBJECT + 128 * length


def _set(*given: Any) -> tuple[Any, int]:
    items = given[0] if given else []
    if len(given) > 1 or type(items) is not list or not all(map(plain_key, items)):
        refuse("has a damaged set")
    return _CALLED, _OBJECT + 128 * len(items)


def _encoded(text: Any, *encoding: Any) -> tuple[Any, int]:
    if type(text) is not str or encoding not in (("latin1",), ("latin-1",), ()):
        refuse("has damaged bytes")
    return _CALLED, _OBJECT + 2 * len(text)


def _bytearray(*given: Any) -> tuple[Any, int]:
    return _encoded(*given) if given else (_CALLED, _OBJECT)


def _complex(*given: Any) -> tuple[Any, int]:
    if len(given) > 2 or not all(type(number) in (int, float) for number in given):
        refuse("has a damaged complex number")
    return 0.0, _OBJECT


def _size(*given: Any) -> tuple[Any, int]:
    return (_sizes(given[0]) if given else ()), _OBJECT


def _of_texts(*given: Any) -> tuple[Any, int]:
    if not all(type(value) in (str, int) for value in given):
        refuse("has a damaged device or layout")
    return _CALLED, _OBJECT


def _stand_in(*given: Any) -> tuple[Any, int]:
    return _STAND_IN, _OBJECT


def _stand_in_dict(*_: Any) -> tuple[Any, int]:
    return Dict(), _OBJECT


def _stand_in_list(*given: Any) -> tuple[Any, int]:
    items = list(given[0]) if given and isinstance(given[0], tuple | list) else []
    return items, _OBJECT + 8 * len(items)


_DIMENSIONS: Final = 64
"""More than torch has in any tensor."""

_OBJECT: Final = 256
"""Bytes that a small object takes, roughly; a tensor takes more, but has a file's own bytes."""

_KEYS: Final = (str, bytes, int, float, bool, type(None), Global)
_TENSOR: Final = _Tensor()
_CALLED: Final = Called()
_STAND_IN: Final = _StandIn()
_TENSOR_CLASSES: Final = (Global("torch.Tensor"), Global("torch.nn.parameter.Parameter"))

_DTYPES: Final[dict[str, int]] = {
    str(dtype): dtype.itemsize for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
}
_STORAGES: Final[dict[str, int]] = {
    f"{module}.{name}Storage": itemsize
    for module in ("torch", "torch.cuda")
    for name, itemsize in {
        "BFloat16": 2,
        "Bool": 1,
        "Byte": 1,
        "Char": 1,
        "ComplexDouble": 16,
        "ComplexFloat": 8,
        "Double": 8,
        "Float": 4,
        "Half": 2,
        "Int": 4,
        "Long": 8,
        "QInt32": 4,
        "QInt8": 1,
        "QUInt2x4": 1,
        "QUInt4x2": 1,
        "QUInt8": 1,
        "Short": 2,
    }.items()
} | {"torch.storage.UntypedStorage": 1}

_CALLS: Final[dict[str, Callable[..., tuple[Any, int]]]] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytearray,
    "builtins.complex": _complex,
    "builtins.set": _set,
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_meta_tensor_no_storage": _tensor_without_numbers,
    "torch._utils._rebuild_nested_tensor": _tensor_without_numbers,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _tensor_without_numbers,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch.device": _of_texts,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.serialization._get_layout": _of_texts,
    **dict.fromkeys(STAND_INS, _stand_in),
    **{name: _stand_in_dict for name in STAND_INS if name.endswith(("AttributeDict", "tdict"))},
    "collections.deque": _stand_in_list,
}
_KNOWN: Final = frozenset(
    [
        *_CALLS,
        *_DTYPES,
        *_STORAGES,
        "torch.Tensor",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
        "torch.per_channel_symmetric",
        "torch.per_tensor_affine",
        "torch.per_tensor_symmetric",
    ]
)
