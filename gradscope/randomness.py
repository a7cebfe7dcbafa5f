"""Random number generators: setting all of them, and leaving no trace of having done so."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from gradscope.errors import UsageError

__all__ = ["RandomStream", "captured_randomness", "preserved_randomness", "seed_everything"]

T = TypeVar("T")

_SEEDS = 2**63


def captured_randomness(others: Sequence[torch.Generator] = ()) -> Callable[[], None]:
    """Notes the state of the global generators and others; returns what puts it back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Asking an accelerator that nothing has used yet for its state would start it.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    states = [generator.get_state() for generator in others]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for generator, state in zip(others, states, strict=True):
            generator.set_state(state)

    return restore


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators (every device's) with ``seed``.

    Raises:
        UsageError: the seed is out of their range.
    """
    if not -_SEEDS <= seed < _SEEDS:
        raise UsageError(f"The seed is {seed}; it must fit into 64 bits.")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # torch.manual_seed() would also queue a seed for an accelerator that is not started yet, in
    # the place of one that the user has queued.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Restores every global generator on the way out; seeds them on the way in if asked to."""
    restore = captured_randomness()
    try:
        if seed is not None:
            seed_everything(seed)
        yield
    finally:
        restore()


class RandomStream:
    """A stream of random numbers of its own for one consumer of the global generators.

    Two trainings that draw different amounts of random numbers (one has dropout, the other not)
    would see their batches in different orders if data and model shared one generator. Drawing
    the batches through a stream keeps the orders matched.
    """

    def __init__(self, seed: int, others: Sequence[torch.Generator] = ()) -> None:
        """Starts at ``seed``; ``others`` are generators of the consumer's own."""
        self._others = others
        restore = captured_randomness(others)
        try:
            seed_everything(seed)
            for generator in others:
                generator.manual_seed(seed)
            self._resume = captured_randomness(others)
        finally:
            restore()

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Inside, the generators go on where this stream left off."""
        restore = captured_randomness(self._others)
        try:
            self._resume()
            yield
        finally:
            self._resume = captured_randomness(self._others)
            restore()

    def draw(self, items: Iterable[T], ahead: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
        """Yields ``items``, each of them fetched with this stream's random state.

        Changing from one random state to another takes a quarter of a millisecond, so items are
        fetched several at a time: ``ahead`` says how many, given one of them.
        """
        with self.resumed():
            iterator = iter(items)
        count = 1
        while True:
            with self.resumed():
                fetched = list(itertools.islice(iterator, count))
            if not fetched:
                return
            count = ahead(fetched[0])
            yield from fetched
