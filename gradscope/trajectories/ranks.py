"""The other processes that torchrun started, on this machine and on others: who has which share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

__all__ = ["Ranks", "torchrun_ranks"]

_PATIENCE = timedelta(days=7)
"""How long one waits for another's share. One that ends is noticed at once."""

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those that torchrun started.

    Attributes:
        rank: of this process, from 0.
        world: how many there are.
        local_world: how many of them run on this machine.
    """

    rank: int
    world: int
    local_world: int

    @property
    def leads(self) -> bool:
        """Whether this process reports, and the others help it."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """In here they can talk to each other, each saying and asking the same in the same order.

        They use gloo, and a process group that is left again.
        """
        import torch.distributed as distributed

        distributed.init_process_group("gloo", timeout=_PATIENCE)
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def dismiss(self) -> None:
        """By rank 0: tells those that wait for what it says that there is nothing to do."""
        with self.joined():
            self.told(None)

    def told(self, what: Kept | None) -> Kept | None:
        """What rank 0 says, in all of them."""
        import torch.distributed as distributed

        said = [what]
        distributed.broadcast_object_list(said, src=0)
        return said[0]

    def gathered(self, what: Kept) -> list[Kept]:
        """What each of them says, by rank; nothing in others than rank 0."""
        import torch.distributed as distributed

        said: list[Any] | None = [None] * self.world if self.leads else None
        distributed.gather_object(what, said, dst=0)
        return said or []


def torchrun_ranks() -> Ranks | None:
    """What torchrun says in the environment; None where it did not start this process, or alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    told = [os.environ.get(name, "") for name in names]
    if "TORCHELASTIC_RUN_ID" not in os.environ or not all(each.isdecimal() for each in told):
        return None
    ranks = Ranks(*map(int, told))
    return ranks if ranks.world > 1 else None
