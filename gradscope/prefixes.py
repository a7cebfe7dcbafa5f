"""Finds the one prefix by which names of a checkpoint and of a model differ, if there is one.

LightningModules put ``model.`` before the names of the model they hold, models of Hugging Face's
``bert.`` and the like before those of their base; either side may have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from gradscope.records import Skipped

__all__ = ["Renaming", "best_renaming"]


@dataclass(frozen=True)
class Renaming:
    """What is done to each name of the checkpoint.

    Attributes:
        taken: a prefix that is taken off; a name without it is in no model. Empty for none.
        put: a prefix that is put before. Empty for none.
    """

    taken: str = ""
    put: str = ""

    def to(self, name: str) -> str | None:
        """The model's name; None for one without the prefix."""
        if not name.startswith(self.taken):
            return None
        return self.put + name.removeprefix(self.taken)

    @property
    def told(self) -> tuple[Skipped, ...]:
        """What is said of it in the report."""
        if self.taken:
            reason = "taken off the checkpoint's names, since the model has it not"
            return (Skipped(f"prefix {self.taken}", reason),)
        if self.put:
            reason = "put before the checkpoint's names, since the model has it"
            return (Skipped(f"prefix {self.put}", reason),)
        return ()


def best_renaming(stored: Collection[str], own: Collection[str]) -> Renaming:
    """The one that makes the most names of a checkpoint names of the model.

    It is none where as many are without it, and where most names have no like under any.

    Args:
        stored: names of the checkpoint's.
        own: names of the model's.
    """
    known = frozenset(own)
    choices = [
        Renaming(),
        *(Renaming(taken=prefix) for prefix in _prefixes(stored)),
        *(Renaming(put=prefix) for prefix in _prefixes(own)),
    ]
    fits = [sum(choice.to(name) in known for name in stored) for choice in choices]
    # The first of the best: without a prefix, else the shortest. One that leaves most names without
    # their like is no prefix, but a coincidence.
    most = max(fits)
    return choices[fits.index(most)] if 2 * most >= max(len(stored), len(known)) else Renaming()


def _prefixes(names: Collection[str]) -> list[str]:
    """Those that at least half of the names have, the shortest first."""
    counts = Counter(
        ".".join(parts[:depth]) + "."
        for parts in (name.split(".") for name in names)
        for depth in range(1, len(parts))
    )
    shared = [prefix for prefix, count in counts.items() if 2 * count >= len(names)]
    return sorted(shared, key=len)
