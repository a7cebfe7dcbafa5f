"""The artificial derivative for idle units alone, the true one for all others.

A unit is idle where, on the whole batch, no element of it passes 1 % of the largest slope: a dead
unit of ReLU, a saturated one of a sigmoid. The gradient of a live network is then exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradscope.derivatives import Derivative, is_full
from gradscope.derivatives.backward import is_eager
from gradscope.errors import PlanError

__all__ = ["Selective"]

# As in profiles: a unit is saturated where its slope is below this share of the largest one.
SATURATED = 0.01

# Up to which share of idle units they are picked out, and above it all are computed: where a unit's
# elements lie together in memory, as channels of images do, and where they are scattered.
_FEW_TOGETHER, _FEW_SCATTERED = 0.5, 0.01
_TOGETHER = 16

# The part of the batch that is looked at first: 1 / 16. A unit that is live there is live.
_SOME = 16


@dataclass(frozen=True)
class Selective(Derivative):
    """A derivative that can be kept to idle units.

    Attributes:
        selective: whether live units keep their true derivative, bit for bit.
        unit_axis: the dimension that counts units, all others being the batch: -1 after linear
            layers, 1 after convolutions, as a profile's sites have it. None is 1 where there are
            four dimensions or more, as after convolutions of images, and else -1. Without a batch
            (one dimension or none) each element is a unit. Only ``selective`` reads it.
        peak: the largest magnitude of the true derivative, per unit of pre-activation.
    """

    peak: ClassVar[float] = 1.0
    # Whether the true derivative is computed from the output, as torch does.
    reads_output: ClassVar[bool] = False

    selective: bool = field(default=False, kw_only=True)
    unit_axis: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        selective: object = self.selective
        axis: object = self.unit_axis
        if not isinstance(selective, bool):
            raise PlanError(f"{self.name} needs selective to be true or false, not {selective!r}.")
        if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool)):
            raise PlanError(f"{self.name} needs a whole number as unit_axis, not {axis!r}.")

    def __call__(
        self,
        x: Tensor,
        inplace: bool = False,
        strength: float | Tensor = 1.0,
        **native_arguments: Any,
    ) -> Tensor:
        if self.selective and x.ndim > 1 and not -x.ndim <= self._unit_axis(x) < x.ndim:
            raise PlanError(
                f"{self.name} has unit_axis {self.unit_axis}, and was called on a tensor of shape "
                f"{tuple(x.shape)}."
            )
        return super().__call__(x, inplace, strength, **native_arguments)

    def idle(self, x: Tensor, y: Tensor | None, **arguments: Any) -> Tensor:
        """Which units are idle: bool, of the shape of ``x`` with 1 for each batch dimension."""
        slope = self.true(torch.ones_like(x), x, y, **arguments).abs()
        return self.largest(slope) < SATURATED * self.peak

    def largest(self, x: Tensor) -> Tensor:
        """The largest value of each unit, batch dimensions kept; NaN where there is one."""
        batch = self._batch(x)
        return x.amax(batch, keepdim=True) if batch else x

    def smallest(self, x: Tensor) -> Tensor:
        """As :meth:`largest`, the smallest."""
        batch = self._batch(x)
        return x.amin(batch, keepdim=True) if batch else x

    def _batch(self, x: Tensor) -> list[int]:
        if x.ndim < 2:
            return []
        units = self._unit_axis(x) % x.ndim
        return [axis for axis in range(x.ndim) if axis != units]

    def _unit_axis(self, x: Tensor) -> int:
        if self.unit_axis is None:
            return 1 if x.ndim >= 4 else -1
        return self.unit_axis

    def backward(
        self,
        gradient: Tensor,
        x: Tensor,
        y: Tensor | None,
        strength: float | Tensor,
        **arguments: Any,
    ) -> Tensor:
        if not self.selective:
            return super().backward(gradient, x, y, strength, **arguments)
        true = self.true(gradient, x, y, **arguments)
        if x.numel() == 0:
            return true
        # On a GPU, looking at values would make the host wait.
        looks = x.is_cpu and x.ndim > 0 and is_eager(gradient, x)
        if looks and not self._may_be_idle(x, y, **arguments):
            return true
        idle = self.idle(x, y, **arguments)
        if looks:
            units = idle.flatten().nonzero()[:, 0]
            axis = self._unit_axis(x) if x.ndim > 1 else 0
            few = _FEW_TOGETHER if x.stride(axis) >= _TOGETHER else _FEW_SCATTERED
            if len(units) <= few * idle.numel():
                found = super().backward(
                    gradient.index_select(axis, units),
                    x.index_select(axis, units),
                    None if y is None else y.index_select(axis, units),
                    strength,
                    **arguments,
                )
                return true.index_copy_(axis, units, found)
        found = super().backward(gradient, x, y, strength, **arguments)
        return _choose(idle, found, true) if looks else torch.where(idle, found, true)

    def _may_be_idle(self, x: Tensor, y: Tensor | None, **arguments: Any) -> bool:
        """Whether any unit is idle on some of the batch, which is quicker to see than on all."""
        if batch := self._batch(x):
            few = -(-x.shape[batch[0]] // _SOME)
            x = x.narrow(batch[0], 0, few)
            y = None if y is None else y.narrow(batch[0], 0, few)
        return bool(self.idle(x, y, **arguments).any())

    def keeps_output(self, strength: float | Tensor) -> bool:
        return self.reads_output and (self.selective or not is_full(strength))


def _choose(idle: Tensor, found: Tensor, true: Tensor) -> Tensor:
    """``torch.where``, several times as fast; overwrites its operands.

    This kernel puts zero where its second operand is at most zero, whatever the first holds there.
    """
    zero = torch.ops.aten.threshold_backward.grad_input
    chosen = idle.to(found.dtype)
    zero(found, chosen, 0, grad_input=found)
    zero(true, 1 - chosen, 0, grad_input=true)
    return found.add_(true)
