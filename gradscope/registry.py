"""Which rules and remedies there are: gradscope's own, and those of installed plugins."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

import gradscope.remedies
import gradscope.rules
from gradscope.config import nearest
from gradscope.discovery import concrete_classes
from gradscope.errors import PluginError, UsageError
from gradscope.plugins import REMEDIES, RULES, plugins
from gradscope.remedies import Remedy
from gradscope.rules import Rule, describe_limits

__all__ = [
    "OWN",
    "causes_of",
    "consequences_of",
    "matching",
    "origin",
    "remedies",
    "remedy",
    "rule",
    "rules",
    "treating",
]

OWN = "gradscope"
"""Where its own rules and remedies come from."""

T = TypeVar("T", Rule[Any], Remedy)

_CODE = "[A-Z]+[0-9]+"
_NAME = "[a-z]+(-[a-z]+)*"


@cache
def rules() -> dict[str, Rule[Any]]:
    """All rules by code, in order of code.

    Raises:
        PluginError: a plugin cannot be used, or two rules share a code or a name.
    """
    found = [entry for entry, _ in _rules()]
    by_code = _unique(sorted(found, key=lambda rule: rule.code), "code")
    _unique(found, "name")
    try:
        TopologicalSorter({code: rule.explained_by for code, rule in by_code.items()}).prepare()
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise PluginError(f"Rules explain each other in a circle: {circle}.") from error
    return by_code


@cache
def remedies() -> dict[str, Remedy]:
    """All remedies by name, in order of name.

    Raises:
        PluginError: a plugin cannot be used, or two remedies share a name.
    """
    found = [entry for entry, _ in _remedies()]
    return _unique(sorted(found, key=lambda remedy: remedy.name), "name")


def origin(entry: Rule[Any] | Remedy) -> str:
    """The package that a rule or remedy comes from: OWN, or a plugin's name and version."""
    known = {type(each): package for each, package in (*_rules(), *_remedies())}
    return known.get(type(entry), OWN)


def rule(key: str) -> Rule[Any]:
    """The rule of that code or name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    by_key = {each.lower(): rule for rule in rules().values() for each in (rule.code, rule.name)}
    if key.lower() in by_key:
        return by_key[key.lower()]
    found = by_key[nearest(key.lower(), by_key)]
    raise UsageError(
        f"There is no rule {key!r}; the nearest is {found.code} {found.name}, and "
        "'gradscope rule' lists all."
    )


def remedy(name: str) -> Remedy:
    """The remedy of that name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    found = remedies().get(name.lower())
    if found is None:
        raise UsageError(
            f"There is no remedy {name!r}; the nearest is {nearest(name.lower(), remedies())}, and "
            "'gradscope remedy' lists all."
        )
    return found


def matching(keys: Iterable[str]) -> set[str]:
    """Codes of the rules that are meant.

    Args:
        keys: codes, names, or the beginning of codes such as ``GS2``.

    Raises:
        UsageError: an entry matches no rule.
    """
    matched: set[str] = set()
    for key in [keys] if isinstance(keys, str) else keys:
        prefixed = {code for code in rules() if key and code.startswith(key.upper())}
        matched |= prefixed or {rule(key).code}
    return matched


def causes_of(code: str) -> list[Rule[Any]]:
    """The rules whose faults may bring that of the rule with this code about, as it ranks them."""
    return [rules()[cause] for cause in rules()[code].explained_by if cause in rules()]


def consequences_of(code: str) -> list[Rule[Any]]:
    """The rules whose faults that of the rule with this code may bring about."""
    return [rule for rule in rules().values() if code in rule.explained_by]


def treating(code: str) -> list[Remedy]:
    """The remedies for what the rule with this code finds."""
    return [remedy for remedy in remedies().values() if code in remedy.treats]


@cache
def _rules() -> tuple[tuple[Rule[Any], str], ...]:
    own = [kind() for kind in concrete_classes(gradscope.rules, Rule)]  # type: ignore[type-abstract]
    registered = plugins(RULES, Rule, _fault_of_rule)  # type: ignore[type-abstract]
    return (*((rule, OWN) for rule in own), *registered)


@cache
def _remedies() -> tuple[tuple[Remedy, str], ...]:
    own = [kind() for kind in concrete_classes(gradscope.remedies, Remedy)]  # type: ignore[type-abstract]
    registered = plugins(REMEDIES, Remedy, _fault_of_remedy)  # type: ignore[type-abstract]
    return (*((remedy, OWN) for remedy in own), *registered)


def _fault_of_rule(rule: Rule[Any]) -> str:
    code, name, limits = (getattr(rule, each, None) for each in ("code", "name", "limits"))
    if not re.fullmatch(_CODE, str(code)):
        return f"has the code {code!r}; one is capital letters and a number, such as ACME101"
    if not is_dataclass(limits) or not fields(limits):
        return "has no limits; they are a frozen dataclass of gradscope.rules.limit() fields"
    try:
        list(describe_limits(limits))
    except KeyError as error:
        return f"has a limit without {error.args[0]}; make each with gradscope.rules.limit()"
    return _fault_of_name(name)


def _fault_of_remedy(remedy: Remedy) -> str:
    for needed in ("changes", "treats"):
        if not getattr(remedy, needed, ()):
            return f"does not say what it {needed}"
    return _fault_of_name(getattr(remedy, "name", None))


def _fault_of_name(name: object) -> str:
    if re.fullmatch(_NAME, str(name)):
        return ""
    return f"has the name {name!r}; one is lower-case words with hyphens, such as no-gradient"


def _unique(entries: list[T], attribute: str) -> dict[str, T]:
    by_key: dict[str, T] = {}
    for entry in entries:
        key = getattr(entry, attribute)
        if key in by_key:
            one, other = (
                f"{type(each).__name__} of {origin(each)}" for each in (by_key[key], entry)
            )
            raise PluginError(
                f"{one} and {other} both have the {attribute} {key!r}; uninstall one of them."
            )
        by_key[key] = entry
    return by_key
