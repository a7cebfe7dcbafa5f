"""Labelled subjects: healthy networks, and networks in which somebody made a mistake.

The files ``healthy_*.py`` and ``faulty_*.py`` each hold their subjects as ``CASES``.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from tests.zoo.subjects.case import Case

__all__ = ["cases"]


@cache
def cases() -> dict[str, Case]:
    """All cases by name, healthy ones first.

    Raises:
        ValueError: two have the same name.
    """
    files = sorted(
        (entry.name for entry in pkgutil.iter_modules(__path__) if "_" in entry.name),
        key=lambda name: (not name.startswith("healthy_"), name),
    )
    found: dict[str, Case] = {}
    for file in files:
        for case in importlib.import_module(f"{__name__}.{file}").CASES:
            if case.name in found:
                raise ValueError(f"two cases are called {case.name}")
            found[case.name] = case
    return found
