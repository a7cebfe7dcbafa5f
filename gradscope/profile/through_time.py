"""The gradient that a fused recurrent layer hands back to each time step of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradscope.profile.operators import kind_of
from gradscope.profile.site import observable
from gradscope.profile.statistics import wide
from gradscope.profile.sums import PEAKS, Sums

__all__ = [
    "Sequence",
    "decay_numbers",
    "decay_sums",
    "obstacle",
    "opened",
    "steps_numbers",
    "steps_of",
]


@dataclass(frozen=True)
class Sequence:
    """The input of a recurrent layer, as an alias that the gradient of this layer alone reaches.

    Attributes:
        alias: a view of it that requires a gradient.
        time: which axis counts time steps.
        both_ways: whether the layer goes through it from both ends.
    """

    alias: Tensor
    time: int
    both_ways: bool


class _Alias(torch.autograd.Function):
    """x as it is, but for that a gradient arrives there if it does at ``weight``.

    ``weight`` gets none from here, nor does an ``x`` that requires none: nothing is accumulated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return gradient if ctx.needs_input_grad[0] else None, None


def steps_of(module: nn.RNNBase, x: Tensor | PackedSequence) -> int:
    """How many time steps the input of a recurrent layer has; the longest of packed ones."""
    if isinstance(x, PackedSequence):
        return x.batch_sizes.numel()
    return x.shape[_time_axis(module, x)]


def steps_numbers(sums: Sums) -> dict[str, Tensor]:
    """The longest of all processes."""
    return {"time_steps": sums[PEAKS].amax()}


def _time_axis(module: nn.RNNBase, x: Tensor) -> int:
    return int(module.batch_first and x.ndim > 2)


def obstacle(module: nn.RNNBase, x: Tensor | PackedSequence) -> str:
    """Why nothing can be told of the gradient over time; empty where nothing speaks against it."""
    if isinstance(x, PackedSequence):
        return "its sequences are packed: no backward signal over time"
    if kind_of(module) not in (nn.RNN, nn.LSTM, nn.GRU):
        # Torch's own do nothing with their input but read it.
        return "it has a forward of its own: no backward signal over time"
    if not x.requires_grad and (len(module._forward_hooks) > 1 or module._backward_hooks):
        # One is the watch's.
        return "hooks on it must not be shown another input: no backward signal over time"
    return ""


def opened(module: nn.RNNBase, x: Tensor) -> Sequence | None:
    """The input of a recurrent layer as a :class:`Sequence`; None where no gradient would arrive.

    Where one does, the layer trains: what it returns requires a gradient anyway.
    """
    trained = next((each for each in module.parameters() if each.requires_grad), None)
    if (
        trained is None
        or not torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
    ):
        return None
    if not observable(x) or x.is_inference() or steps_of(module, x) < 2:
        return None
    alias: Tensor = _Alias.apply(x, trained)  # type: ignore[no-untyped-call]
    return Sequence(alias, _time_axis(module, x), bool(module.bidirectional))


def decay_sums(gradient: Tensor, factor: float, *, time: int, both_ways: bool) -> Sums:
    """What is summed of the gradient of a sequence at the ends of time, multiplied by ``factor``.

    The end near the loss is for each sample the last time step that any gradient reaches: behind
    it there is padding, or nothing that the loss looks at. Far from the loss is the first one; or,
    for a layer that goes both ways, the middle between the first and the last one reached.
    """
    size = torch.linalg.vector_norm(gradient.detach(), dim=-1, dtype=wide(gradient))
    power = size.unsqueeze(1) if size.ndim == 1 else size.movedim(time, 0)
    power = power.square() * factor**2
    number = torch.arange(len(power), device=power.device).unsqueeze(1)
    reached = power != 0
    last = (number * reached).amax(dim=0)
    far, ends = torch.zeros_like(last), [last]
    if both_ways:
        first = number.where(reached, len(power) - 1).amin(dim=0).minimum(last)
        far, ends = (first + last) // 2, [first, last]
    return {
        "far": power.gather(0, far.unsqueeze(0)).sum(),
        "near": power.gather(0, torch.stack(ends)).sum(dim=1),
    }


def decay_numbers(sums: Sums) -> dict[str, Tensor]:
    """The ratio of RMS that the sums over all samples make; NaN where no gradient arrived."""
    return {"time_decay": (sums["far"] / sums["near"].amax()).sqrt()}
