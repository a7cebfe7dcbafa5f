"""``[tool.gradscope]`` of a pyproject.toml -> Settings.

Only the command line looks for a file; functions are given their settings. Which rules and limits
there are is not known here: ``gradscope.configured`` holds the settings against them.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradscope.errors import ConfigError

__all__ = ["Settings", "find_settings", "nearest"]

_FILE = "pyproject.toml"
_KEYS = ("ignore", "ignore-sites", "rules", "select")


@dataclass(frozen=True)
class Settings:
    """Which rules run, with which limits, and where they do not look.

    A rule is named by its code or name, in ``select``, ``ignore`` and ``ignored_sites`` also by
    the beginning of codes, such as ``GS2``.

    Attributes:
        select: the rules to run; None for all.
        ignore: rules to leave out of these.
        limits: for a rule, the limits to use in place of its defaults, by their names.
        ignored_sites: for a glob such as ``decoder.*``, the rules that are not shown the sites and
            parameters whose whole name matches it, upper and lower case told apart.
        source: the file that they were read from, for messages; None where there is none.

    Raises:
        ConfigError: a limit is not a finite number.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ignored_sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: Path | None = None

    def __post_init__(self) -> None:
        for rule, limits in self.limits.items():
            for name, value in limits.items():
                if not _is_finite_number(value):
                    raise self.error(
                        ("rules", rule, name), f"is {value!r:.60}; it must be a finite number"
                    )

    def error(self, keys: Iterable[str], fault: str) -> ConfigError:
        """What is raised about a key; it names the file and the key."""
        place = ".".join(map(_as_written, ("tool", "gradscope", *keys)))
        where = "the settings" if self.source is None else self.source
        return ConfigError(f"{where}: {place} {fault}.")


def find_settings(start: str | Path = ".") -> Settings:
    """The settings of the nearest pyproject.toml with a ``[tool.gradscope]``.

    Args:
        start: the folder to look in first, then in its parents.

    Returns:
        The settings; the defaults where there is no such file.

    Raises:
        ConfigError: a pyproject.toml on the way cannot be read or is no TOML, or a key of
            ``[tool.gradscope]`` is unknown or has a value that cannot be meant.
    """
    folder = Path(start).resolve()
    for place in (folder, *folder.parents):
        tool = _read(place / _FILE).get("tool")
        if isinstance(tool, dict) and "gradscope" in tool:
            return _settings(tool["gradscope"], Settings(source=place / _FILE))
    return Settings()


def nearest(word: str, known: Iterable[str]) -> str:
    """Which of the known words is spelled most like ``word``."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]


def _read(path: Path) -> dict[str, Any]:
    """What a TOML file holds; nothing where there is no file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def _settings(given: Any, empty: Settings) -> Settings:
    """The settings in a ``[tool.gradscope]``; ``empty`` ones know the file, for messages."""
    table = _table(given, (), empty)
    for key in table:
        if key not in _KEYS:
            raise empty.error(
                (),
                f"has no key {key!r}; the nearest is {nearest(key, _KEYS)!r} (there are "
                f"{', '.join(_KEYS)})",
            )
    rules = _table(table.get("rules", {}), ("rules",), empty)
    sites = _table(table.get("ignore-sites", {}), ("ignore-sites",), empty)
    return Settings(
        select=_names(table["select"], ("select",), empty) if "select" in table else None,
        ignore=_names(table["ignore"], ("ignore",), empty) if "ignore" in table else (),
        limits={name: _table(limits, ("rules", name), empty) for name, limits in rules.items()},
        ignored_sites={
            pattern: _names(names, ("ignore-sites", pattern), empty)
            for pattern, names in sites.items()
        },
        source=empty.source,
    )


def _table(value: Any, keys: tuple[str, ...], empty: Settings) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise empty.error(keys, f"is {value!r:.60}; it must be a table")
    return value


def _names(value: Any, keys: tuple[str, ...], empty: Settings) -> tuple[str, ...]:
    if isinstance(value, dict) and keys[0] == "ignore-sites":
        raise empty.error(keys, "is a table; put the whole pattern in quotes")
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise empty.error(keys, f'is {value!r:.60}; it must be a list of rules such as ["GS201"]')
    if not value and keys != ("ignore",):
        raise empty.error(keys, "is an empty list; name rules, or leave the key out")
    return tuple(value)


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _as_written(key: str) -> str:
    """The key as TOML has it: in quotes unless it is a bare one."""
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'"{key}"'
