"""What the ``.metadata`` of a torch.distributed.checkpoint says, read without unpickling it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from gradscope.checkpoints.pickles.inert_pickle import Called, Global, NotInert, read_inert
from gradscope.checkpoints.pickles.known_names import DTYPES
from gradscope.checkpoints.storage.regions import Unreadable
from gradscope.checkpoints.storage.strided import whole_numbers
from gradscope.checkpoints.storage.tiling import Box

__all__ = ["Metadata", "Place", "TensorEntry", "read_metadata"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where bytes lie, as the metadata has it; nothing of it was checked.

    Attributes:
        file: name of it.
        offset: of the first byte.
        length: in bytes.
        transforms: what else was done to them, such as a compression.
    """

    file: str
    offset: int
    length: int
    transforms: bool


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor and its chunks, without those that hold no element."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Metadata:
    """All of it.

    Attributes:
        entries: a tensor, or None for any other value, by key, in the order of the file.
        paths: of keys of dicts and places in lists, by key, where the file tells.
        places: by key and offsets of the chunk, which are None for what is no tensor.
    """

    entries: Mapping[str, TensorEntry | None]
    paths: Mapping[str, tuple[str | int, ...]]
    places: Mapping[tuple[str, tuple[int, ...] | None], Place]


def read_metadata(data: bytes) -> Metadata:
    """Reads it.

    Raises:
        Unreadable: it is damaged, or names a class that torch.distributed.checkpoint never writes.
    """
    try:
        found = _fields(read_inert(data, _WRITTEN), _METADATA)
    except NotInert as error:
        raise Unreadable(str(error)) from error
    entries, places = found.get("state_dict_metadata"), found.get("storage_data")
    if type(entries) is not dict or type(places) is not dict:
        raise Unreadable("metadata without entries")
    return Metadata(
        {_text(key): _entry(value) for key, value in entries.items()},
        _paths(found.get("planner_data")),
        dict(_place(index, info) for index, info in places.items()),
    )


def _fields(value: object, kind: Global) -> dict[str, Any]:
    """The attributes of a dataclass."""
    if isinstance(value, Called) and value.function == kind:
        state = {} if value.state is None else value.state
        if type(state) is dict:
            return state
    raise Unreadable(f"something else where a {kind.name} belongs")


def _text(value: object) -> str:
    if type(value) is not str:
        raise Unreadable("a key that is no text")
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise Unreadable("a place in a file that is no whole number")
    return value


def _sizes(value: object) -> tuple[int, ...]:
    sizes = whole_numbers(value)
    if sizes is None:
        raise Unreadable("a damaged shape")
    return sizes


def _entry(value: object) -> TensorEntry | None:
    if isinstance(value, Called) and value.function == _BYTES:
        return None
    fields = _fields(value, _TENSOR)
    chunks = fields.get("chunks")
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Called) else None
    if type(chunks) is not list or type(state) is not tuple or not state:
        raise Unreadable("a damaged entry of a tensor")
    dtype = DTYPES.get(state[0]) if isinstance(state[0], Global) else None
    if dtype is None:
        raise Unreadable("a tensor of a type that is not known")
    # Processes without a part of a tensor write a chunk without elements, at offsets of no use.
    boxes = {box: None for chunk in chunks if (box := _box(chunk)).volume}
    return TensorEntry(_sizes(fields.get("size")), dtype, tuple(boxes))


def _box(chunk: object) -> Box:
    fields = _fields(chunk, _CHUNK)
    return Box(_sizes(fields.get("offsets")), _sizes(fields.get("sizes")))


def _place(index: object, info: object) -> tuple[tuple[str, tuple[int, ...] | None], Place]:
    named, stored = _fields(index, _INDEX), _fields(info, _STORED)
    offsets = named.get("offset")
    return (_text(named.get("fqn")), None if offsets is None else _sizes(offsets)), Place(
        _text(stored.get("relative_path")),
        _count(stored.get("offset")),
        _count(stored.get("length")),
        bool(stored.get("transform_descriptors")),
    )


def _paths(planner_data: object) -> dict[str, tuple[str | int, ...]]:
    """A planner of one's own may note anything else there, which says nothing here."""
    if type(planner_data) is not dict:
        return {}
    return {
        key: path
        for key, path in planner_data.items()
        if type(key) is str
        and type(path) is tuple
        and 0 < len(path) <= _LEVELS
        and all(type(part) in (str, int) for part in path)
    }


_LEVELS: Final = 32
"""Dicts in dicts that a state dict may have; a model's names are one level."""

_MODULE: Final = "torch.distributed.checkpoint.metadata"
_METADATA: Final = Global(_MODULE, "Metadata")
_TENSOR: Final = Global(_MODULE, "TensorStorageMetadata")
_BYTES: Final = Global(_MODULE, "BytesStorageMetadata")
_CHUNK: Final = Global(_MODULE, "ChunkStorageMetadata")
_INDEX: Final = Global(_MODULE, "MetadataIndex")
_STORED: Final = Global("torch.distributed.checkpoint.filesystem", "_StorageInfo")
_WRITTEN: Final = frozenset(
    {
        _METADATA,
        _TENSOR,
        _BYTES,
        _CHUNK,
        _INDEX,
        _STORED,
        Global(_MODULE, "TensorProperties"),
        Global(_MODULE, "_MEM_FORMAT_ENCODING"),
        Global(_MODULE, "StorageMeta"),
        Global("torch", "Size"),
        Global("torch.serialization", "_get_layout"),
        Global("collections", "OrderedDict"),
        *DTYPES,
        *(
            Global(module, f"{kind}Path")
            for module in ("pathlib", "pathlib._local")
            for kind in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")
        ),
    }
)
"""Names that a ``.metadata`` has; none of them is looked up."""
