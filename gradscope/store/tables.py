"""Rows of a run as tables of pandas and Polars, which are imported when they are asked for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from gradscope.errors import UsageError
from gradscope.store.contents import Columns

__all__ = ["pandas_table", "polars_table"]


def pandas_table(steps: np.ndarray, values: np.ndarray, columns: Columns) -> Any:
    """A table whose index is the step."""
    module = _module("pandas")
    index = module.Index(steps, name="step")
    return module.DataFrame(values, index=index, columns=_names(columns))


def polars_table(steps: np.ndarray, values: np.ndarray, columns: Columns) -> Any:
    """A table whose first column is the step."""
    module = _module("polars")
    series = zip(_names(columns), np.ascontiguousarray(values.T), strict=True)
    return module.DataFrame({"step": steps, **dict(series)})


def _names(columns: Columns) -> list[str]:
    return [
        measure if kind == "step" else f"{kind}/{name}/{measure}" for kind, name, measure in columns
    ]


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"The table needs {name}, which is not installed: pip install {name}. "
            "Run.rows() gives the same numbers as NumPy arrays."
        ) from error
