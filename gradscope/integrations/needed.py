"""Imports a package that an integration is for, or says how to install it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gradscope.errors import UsageError

__all__ = ["needed"]


def needed(module: str, extra: str) -> Any:
    """The module of that name.

    Raises:
        UsageError: It is not installed, or cannot be imported; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"gradscope.integrations.{extra} needs {module}, which cannot be imported "
            f"({error}): pip install 'torch-gradscope[{extra}]'"
        ) from error
