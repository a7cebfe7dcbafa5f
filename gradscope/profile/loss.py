"""The loss functions of torch's that a step calls: what they are given, and what luck would get."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.profile.graph import behind_reshapes
from gradscope.profile.site import recomputing
from gradscope.profile.statistics import wide
from gradscope.records import LossCall

__all__ = ["LossCalls", "of_all_processes"]

_OF_CLASSES = ("cross_entropy", "nll_loss")
_OF_CHANCES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_OF_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_SIGNATURES = {
    name: inspect.signature(getattr(functional, name))
    for name in (*_OF_CLASSES, *_OF_CHANCES, *_OF_NUMBERS, "kl_div")
}

# Autograd's names of operations that bound what they return, and what the functions are called.
_BOUNDS = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "Relu": "relu", "Hardtanh": "hardtanh", "Hardsigmoid": "hardsigmoid", "Clamp": "clamp",
    "ClampMin": "clamp", "ClampMax": "clamp", "LogSigmoid": "logsigmoid", "Softplus": "softplus",
}  # fmt: skip

# A loss that is the call's own result, but for rounding.
_SAME = 1e-4


@dataclass
class LossCalls:
    """Gathers the calls of loss functions, step by step."""

    _now: list[tuple[LossCall, float]] = field(default_factory=list)
    _steps: list[list[LossCall]] = field(default_factory=list)

    def see(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Looks at a call of torch's, which returned ``out``; most are no loss functions."""
        signature = _SIGNATURES.get(name)
        if signature is None or recomputing() or not isinstance(out, Tensor):
            return
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        made, target = given.arguments["input"], given.arguments["target"]
        if not (made.is_floating_point() and made.numel() and target.numel()):
            return
        with torch.no_grad():
            self._now.append(
                (_read(name, given.arguments, made, target.detach()), float(out.double().mean()))
            )

    def close(self, loss: float) -> None:
        """The step is over; what it called counts for comparison if it made ``loss``."""
        calls = []
        for call, value in self._now:
            # A part of a sum, or a multiple, cannot be held against what luck would get.
            own = math.isclose(value, loss, rel_tol=_SAME, abs_tol=_SAME)
            broken = not (math.isfinite(value) and math.isfinite(loss))
            calls.append(call if own or broken else replace(call, chance=math.nan, trivial=_NAN))
        self._steps.append(calls)
        self._now = []

    def record(self) -> LossCall | None:
        """Of all steps together, the function that was called first; None where none was."""
        first = next((calls[0] for calls in self._steps if calls), None)
        if first is None:
            return None
        alike = [
            [
                call
                for call in calls
                if (call.function, call.behind) == (first.function, first.behind)
            ]
            for calls in self._steps
        ]
        trivial = tuple(calls[0].trivial[0] if calls else math.nan for calls in alike)
        return _together([call for calls in alike for call in calls], trivial)


_NAN = (math.nan,)


def of_all_processes(calls: Sequence[LossCall | None]) -> LossCall | None:
    """What the calls on several processes, each with samples of its own, come to."""
    seen = [call for call in calls if call is not None]
    if not seen:
        return None
    steps = zip(*(call.trivial for call in seen), strict=True)
    return _together(seen, tuple(sum(values) / len(seen) for values in steps))


def _together(calls: Sequence[LossCall], trivial: tuple[float, ...]) -> LossCall:
    return replace(
        calls[0],
        input_low=min(call.input_low for call in calls),
        input_high=max(call.input_high for call in calls),
        target_low=min(call.target_low for call in calls),
        target_high=max(call.target_high for call in calls),
        targets_vary=any(call.targets_vary for call in calls),
        trivial=trivial,
    )


def _read(name: str, given: dict[str, Any], made: Tensor, target: Tensor) -> LossCall:
    ignored = given.get("ignore_index")
    if ignored is not None and not target.is_floating_point():
        kept = target[target != ignored]
        target = kept if kept.numel() else target
    classes = made.shape[1 if made.ndim > 1 else 0] if name in _OF_CLASSES else 0
    chance, trivial = _luck(name, given, classes, target)
    input_low, input_high = _range(made.detach())
    target_low, target_high = _range(target)
    first = target[:1]
    return LossCall(
        function=name,
        behind=_behind(made),
        outputs=classes or (made.shape[-1] if made.ndim > 1 else 1),
        input_low=input_low,
        input_high=input_high,
        target_low=target_low,
        target_high=target_high,
        targets_vary=bool((target != first).any()),
        chance=chance,
        trivial=(trivial,),
    )


def _luck(name: str, given: dict[str, Any], classes: int, target: Tensor) -> tuple[float, float]:
    """The losses of a prediction that favours nothing, and of the best one that never changes.

    Both are of a mean over predictions: NaN where the loss is summed, and where weights of single
    classes, a smoothing of labels, or another loss leave it unknown.
    """
    if given.get("reduction") == "sum":
        return math.nan, math.nan
    if name in _OF_CLASSES:
        if given.get("weight") is not None or given.get("label_smoothing"):
            return math.log(classes), math.nan
        return math.log(classes), _entropy_of_labels(target, classes)
    if name in _OF_CHANCES:
        if given.get("weight") is not None or given.get("pos_weight") is not None:
            return math.nan, math.nan
        mean = target.to(wide(target)).mean(dim=0)
        return math.log(2), float(
            functional.binary_cross_entropy(mean.clamp(0, 1), mean.clamp(0, 1))
        )
    values = target.to(wide(target))
    if name == "mse_loss":
        return math.nan, float(values.var(dim=0, correction=0).mean())
    if name == "l1_loss":
        return math.nan, float((values - values.median(dim=0).values).abs().mean())
    return math.nan, math.nan


def _entropy_of_labels(target: Tensor, classes: int) -> float:
    """In nats, of the shares that the classes have among all labels."""
    if target.is_floating_point():
        others = [dim for dim in range(target.ndim) if dim != min(1, target.ndim - 1)]
        shares = target.to(wide(target)).mean(dim=others)
    else:
        counts = torch.bincount(target.reshape(-1).clamp(min=0), minlength=classes)
        shares = counts.double() / counts.sum()
    return float(torch.special.entr(shares).sum())


def _range(x: Tensor) -> tuple[float, float]:
    """The smallest and the largest finite value; NaN where there is none."""
    finite = x[torch.isfinite(x)] if x.is_floating_point() else x
    if not finite.numel():
        return math.nan, math.nan
    low, high = torch.aminmax(finite)
    return float(low), float(high)


def _behind(made: Tensor) -> str:
    """What bounded the input of a loss, by its graph."""
    node = behind_reshapes(made.grad_fn)
    return "" if node is None else _BOUNDS.get(node.name().partition("Backward")[0], "")
