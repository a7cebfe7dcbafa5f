"""Rules and remedies of other packages, which register them as entry points.

The pyproject.toml of such a package says where its rules are, and likewise its remedies:

    [project.entry-points."gradscope.rules"]
    acme = "acme.gradient_rules"

The value is a module, all of whose rules are taken, or one class (``acme.gradient_rules:Rule``).
A plugin that cannot be used is an error: what it would have found must not go missing unsaid.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from importlib import metadata
from types import ModuleType
from typing import TypeVar

from gradscope.checked import one_line
from gradscope.discovery import classes_of
from gradscope.errors import PluginError

__all__ = ["REMEDIES", "RULES", "plugins"]

RULES = "gradscope.rules"
REMEDIES = "gradscope.remedies"

T = TypeVar("T")


def plugins(group: str, base: type[T], fault: Callable[[T], str]) -> Iterator[tuple[T, str]]:
    """What installed packages register.

    Args:
        group: of the entry points.
        base: the class that what is registered derives from.
        fault: says what is wrong with one of them; empty where nothing is.

    Returns:
        An instance of each class, with the name and version of the package it comes from; in
        order of package, then of entry point.

    Raises:
        PluginError: one cannot be loaded or used; the message names package and entry point.
    """
    points = [(_package(point), point) for point in metadata.entry_points(group=group)]
    for package, point in sorted(points, key=lambda each: (each[0], each[1].name)):
        try:
            entries = _entries(point, base, fault)
        except PluginError as error:
            raise PluginError(
                f"{package} registers {point.name} = {point.value!r} in {group}, but {error}; "
                f"update or uninstall {package.partition(' ')[0]}."
            ) from error
        yield from ((entry, package) for entry in entries)


def _entries(point: metadata.EntryPoint, base: type[T], fault: Callable[[T], str]) -> list[T]:
    """An instance of each class that an entry point names; PluginError says why there is none."""
    try:
        entries = [kind() for kind in _classes(point.load(), base)]
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"it cannot be loaded: {one_line(error)}") from error
    for entry in entries:
        if reason := fault(entry):
            raise PluginError(f"{type(entry).__name__} {reason}")
    return entries


def _classes(value: object, base: type[T]) -> list[type[T]]:
    kind = f"{base.__module__}.{base.__name__}"
    if isinstance(value, ModuleType):
        found = classes_of(value, base)
        if not found:
            raise PluginError(f"the module defines no subclass of {kind} with all its methods")
        return found
    if not (inspect.isclass(value) and issubclass(value, base)):
        raise PluginError(f"that is neither a module nor a subclass of {kind}")
    if missing := sorted(getattr(value, "__abstractmethods__", ())):
        raise PluginError(f"it does not define {', '.join(missing)}")
    return [value]


def _package(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
