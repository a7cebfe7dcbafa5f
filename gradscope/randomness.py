"""Random number generators: setting all of them, and leaving no trace of having done so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from gradscope.errors import UsageError

__all__ = ["RandomStream", "preserved_randomness", "seed_everything"]

T = TypeVar("T")

_SEEDS = 2**63


def _capture() -> Callable[[], None]:
    """Notes the state of Python's, NumPy's and torch's generators; returns what puts it back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Asking an accelerator that nothing has used yet for its state would start it.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

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
    torch.manual_seed(seed)


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Restores every global generator on the way out; seeds them on the way in if asked to."""
    restore = _capture()
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

    def __init__(self, seed: int) -> None:
        with preserved_randomness(seed):
            self._resume = _capture()

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Inside, the global generators go on where this stream left off."""
        with preserved_randomness():
            self._resume()
            try:
                yield
            finally:
                self._resume = _capture()

    def draw(self, items: Iterable[T]) -> Iterator[T]:
        """Yields ``items``, each of them fetched with this stream's random state."""
        with self.resumed():
            iterator = iter(items)
        while True:
            with self.resumed():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
