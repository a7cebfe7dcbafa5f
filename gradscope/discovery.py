"""Finds what the modules of a package define: adding a rule or a remedy touches one file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

__all__ = ["classes_of", "concrete_classes", "summary"]

T = TypeVar("T")


def concrete_classes(package: ModuleType, base: type[T]) -> list[type[T]]:
    """Every non-abstract subclass of ``base`` that a module of ``package`` defines itself.

    Args:
        package: whose direct modules are imported, in alphabetical order.
        base: the class they derive from.

    Returns:
        The classes in order of module name, then of definition.
    """
    found: list[type[T]] = []
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        found += classes_of(importlib.import_module(f"{package.__name__}.{entry.name}"), base)
    return found


def classes_of(module: ModuleType, base: type[T]) -> list[type[T]]:
    """Every non-abstract subclass of ``base`` in a module that it or a module inside it defines.

    Returns:
        The classes in order of definition or import.
    """
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, base)
        and not inspect.isabstract(member)
        and f"{member.__module__}.".startswith(f"{module.__name__}.")
    ]


def summary(documented: object) -> str:
    """The first paragraph of an object's class documentation, without the full stop."""
    return " ".join((type(documented).__doc__ or "").split("\n\n")[0].split()).rstrip(".")
