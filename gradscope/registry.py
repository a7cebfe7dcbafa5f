"""Which rules and remedies there are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import gradscope.remedies
import gradscope.rules
from gradscope.discovery import concrete_classes
from gradscope.errors import GradscopeError, UsageError
from gradscope.remedies import Remedy
from gradscope.rules import Rule

__all__ = ["chosen_rules", "remedies", "remedy", "rule", "rules"]

T = TypeVar("T")


@cache
def rules() -> dict[str, Rule[Any]]:
    """All rules by code, in order of code."""
    found = [kind() for kind in concrete_classes(gradscope.rules, Rule)]  # type: ignore[type-abstract]
    _unique(found, "name")
    return _unique(sorted(found, key=lambda rule: rule.code), "code")


@cache
def remedies() -> dict[str, Remedy]:
    """All remedies by name, in order of name."""
    found = [kind() for kind in concrete_classes(gradscope.remedies, Remedy)]  # type: ignore[type-abstract]
    return _unique(sorted(found, key=lambda remedy: remedy.name), "name")


def rule(key: str) -> Rule[Any]:
    """The rule of that code or name.

    Raises:
        UsageError: there is none; the message lists what there is.
    """
    for candidate in rules().values():
        if key.upper() == candidate.code or key.lower() == candidate.name:
            return candidate
    known = ", ".join(f"{entry.code} {entry.name}" for entry in rules().values())
    raise UsageError(f"There is no rule {key!r}; there are {known}.")


def remedy(name: str) -> Remedy:
    """The remedy of that name.

    Raises:
        UsageError: there is none; the message lists what there is.
    """
    found = remedies().get(name.lower())
    if found is None:
        raise UsageError(f"There is no remedy {name!r}; there are {', '.join(remedies())}.")
    return found


def chosen_rules(
    select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> list[Rule[Any]]:
    """The rules to run: those selected (all without a selection) less those ignored.

    Args:
        select, ignore: codes, names, or the beginning of codes such as ``GS2``.

    Raises:
        UsageError: an entry matches no rule.
    """
    chosen = set(rules()) if select is None else _matching(select)
    if ignore is not None:
        chosen -= _matching(ignore)
    return [entry for code, entry in rules().items() if code in chosen]


def _matching(keys: Iterable[str]) -> set[str]:
    matching: set[str] = set()
    for key in keys:
        prefixed = {code for code in rules() if key and code.startswith(key.upper())}
        matching |= prefixed or {rule(key).code}
    return matching


def _unique(entries: list[T], attribute: str) -> dict[str, T]:
    by_key: dict[str, T] = {}
    for entry in entries:
        key = getattr(entry, attribute)
        if key in by_key:
            raise GradscopeError(
                f"{type(entry).__name__} and {type(by_key[key]).__name__} both have the "
                f"{attribute} {key!r}."
            )
        by_key[key] = entry
    return by_key
