"""The names that a checkpoint may have in it without being refused; none of them is looked up.

Beside those that tensors are made of there are settings, dates and random states, which often lie
beside weights: they keep nobody from reading these.
"""

from __future__ import annotations

from typing import Final

import torch

from gradscope.checkpoints.pickles.inert_values import Global

__all__ = ["DICTS", "DTYPES", "ITEM_SIZES", "KNOWN", "LISTS", "STORAGES"]


def _globals(module: str, names: str) -> frozenset[Global]:
    return frozenset(Global(module, name) for name in names.split())


_TYPES: Final = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}
_QUANTISED: Final = {"QInt32": 4, "QInt8": 1, "QUInt2x4": 1, "QUInt4x2": 1, "QUInt8": 1}

DTYPES: Final = {
    Global("torch", str(value).removeprefix("torch.")): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype) and value.itemsize and not str(value).startswith("torch.q")
}
STORAGES: Final = {Global("torch", f"{name}Storage"): dtype for name, dtype in _TYPES.items()}
ITEM_SIZES: Final = {
    Global("torch.storage", "UntypedStorage"): 1,
    **{
        Global(module, f"{name}Storage"): size
        for module in ("torch", "torch.cuda")
        for name, size in (
            *((name, dtype.itemsize) for name, dtype in _TYPES.items()),
            *_QUANTISED.items(),
        )
    },
}
"""Bytes of an element, by the class of a storage."""

DICTS: Final = frozenset(
    {
        *_globals("collections", "OrderedDict Counter defaultdict"),
        Global("lightning.fabric.utilities.data", "AttributeDict"),
        Global("lightning_fabric.utilities.data", "AttributeDict"),
        Global("pytorch_lightning.utilities.parsing", "AttributeDict"),
    }
)
"""Classes whose objects are read as plain dicts."""

LISTS: Final = frozenset({Global("collections", "deque"), Global("torch", "Size")})
"""And as lists."""

_OF_TENSORS: Final = frozenset(
    {
        *_globals(
            "torch._utils",
            "_rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_parameter "
            "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
            "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3",
        ),
        *_globals(
            "torch",
            "Tensor device per_channel_affine per_channel_affine_float_qparams "
            "per_channel_symmetric per_tensor_affine per_tensor_symmetric "
            "qint32 qint8 quint2x4 quint4x2 quint8",
        ),
        Global("torch._tensor", "_rebuild_from_type_v2"),
        Global("torch.nn.parameter", "Parameter"),
        Global("torch.serialization", "_get_layout"),
    }
)
_DROPPED: Final = frozenset(
    {
        Global("_codecs", "encode"),
        Global("argparse", "Namespace"),
        *_globals(
            "builtins",
            "bool bytearray complex dict float frozenset int list range set slice str tuple",
        ),
        *_globals("datetime", "date datetime time timedelta timezone"),
        Global("decimal", "Decimal"),
        Global("fractions", "Fraction"),
        *_globals("numpy._core.multiarray", "_reconstruct scalar"),
        *_globals("numpy.core.multiarray", "_reconstruct scalar"),
        *_globals("numpy", "dtype float32 float64 int32 int64 ndarray"),
        *_globals(
            "numpy.dtypes",
            "BoolDType Float32DType Float64DType Int32DType Int64DType UInt32DType UInt64DType",
        ),
        *_globals(
            "pathlib",
            "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
        ),
        *_globals("pathlib._local", "PosixPath PurePosixPath WindowsPath"),
        Global("torch.torch_version", "TorchVersion"),
        Global("types", "SimpleNamespace"),
        Global("uuid", "UUID"),
    }
)
"""Classes of whose objects nothing is kept."""

KNOWN: Final = frozenset({*DICTS, *LISTS, *_OF_TENSORS, *_DROPPED, *DTYPES, *ITEM_SIZES})
