"""Stands in for classes that often lie beside weights and are no weights: none of them is run.

torch's weights-only unpickler takes a list of what it may call by name. Under each of these names
it finds a class of this file, so that settings, dates and random states do not keep anyone from
reading the weights beside them, while the classes that the file means are not even imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gradscope.checkpoints.plain import Unread

__all__ = ["STAND_INS", "StandIn"]


class StandIn(Unread):
    """An object of which nothing is kept."""

    def __new__(cls, *_: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        """What it would be made of is dropped."""

    def __setstate__(self, state: Any) -> None:
        """So is what would be its attributes."""


class _EmptyDict(dict[Any, Any]):
    """Becomes a plain dict, whose items the unpickler then sets; what else is given is dropped."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _Items(list[Any]):
    """Becomes a plain list."""

    def __new__(cls, *given: Any) -> Any:
        return list(given[0]) if given and isinstance(given[0], list | tuple) else []


_DROPPED: Final = (
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.frozenset",
    "builtins.int",
    "builtins.list",
    "builtins.range",
    "builtins.slice",
    "builtins.str",
    "builtins.tuple",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.BoolDType",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int32DType",
    "numpy.dtypes.Int64DType",
    "numpy.dtypes.UInt32DType",
    "numpy.dtypes.UInt64DType",
    "numpy.float32",
    "numpy.float64",
    "numpy.int32",
    "numpy.int64",
    "numpy.ndarray",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.PurePosixPath",
    "pathlib._local.WindowsPath",
    "torch.torch_version.TorchVersion",
    "types.SimpleNamespace",
    "uuid.UUID",
)
_DICTS: Final = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_LISTS: Final = ("collections.deque",)

STAND_INS: Final[dict[str, Callable[..., Any]]] = {
    **dict.fromkeys(_DROPPED, StandIn),
    **dict.fromkeys(_DICTS, _EmptyDict),
    **dict.fromkeys(_LISTS, _Items),
}
"""By the name under which a pickle asks for them."""
