"""Gives memory back that shows a file, so that a large checkpoint can be looked at in a small one.

A tensor that is a view of a file takes memory once it is looked at, and keeps it as long as the
file is open, although the system could read it again at any time. Nobody knows but the reader of
the file which tensors these are: it says so by ``MappedTensor``.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

from torch import Tensor

from gradscope.checkpoints.checkpoint import StoredTensor

__all__ = ["MappedTensor", "looked_at", "release"]

_DONTNEED: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None)


@dataclass(frozen=True)
class MappedTensor(StoredTensor):
    """A stored tensor whose memory is a private mapping of a file, to which nothing has written.

    All that ``load`` returns must be that: a copy of it would lose its numbers in ``release``.
    """


@contextmanager
def looked_at(stored: StoredTensor) -> Iterator[Tensor]:
    """The tensor, whose memory is given back at the end."""
    tensor = stored.load()
    try:
        yield tensor
    finally:
        release(stored, tensor)


def release(stored: StoredTensor, tensor: Tensor) -> None:
    """Gives the memory of a tensor back to the system, which reads it again where it is needed.

    It does nothing where the tensor is not a view of a file, or the system cannot do it. What else
    lies on the first and the last page of the tensor is given back with it, and is read again too.

    Args:
        stored: what was asked for the tensor.
        tensor: what ``stored.load()`` returned, or a view of it.
    """
    if not isinstance(stored, MappedTensor) or not tensor.numel():
        return
    if tensor.is_contiguous():
        span = tensor.numel()
    else:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        span = sum((size - 1) * stride for size, stride in steps) + 1
    _give_back(tensor.data_ptr(), span * tensor.element_size())


def _give_back(address: int, length: int) -> None:
    """Gives the pages back on which some bytes lie, of a mapping that nothing has written to."""
    advise = _madvise()
    if advise is None or _DONTNEED is None:
        return
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    last = -(-(address + length) // mmap.PAGESIZE) * mmap.PAGESIZE
    advise(first, last - first, _DONTNEED)


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int

    def advise(address: int, length: int, advice: int) -> int:
        return int(function(address, length, advice))

    return advise
