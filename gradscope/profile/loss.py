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
from gradscope.profile.sums import Sums
from gradscope.records import LossCall

__all__ = ["LossCalls", "of_all_processes"]

_OF_CLASSES = ("cross_entropy", "nll_loss")
_OF_CHANCES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_OF_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_SIGNATURES = {
    name: inspect.signature(getattr(functional, name))
    for name in (*_OF_CLASSES, *_OF_CHANCES, *_OF_NUMBERS, "kl_div")
}

# Autograd's names of operations that bound what they return, or end a softmax worked out by hand,
# and what the functions are called.
_BOUNDS = {
    "Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "Relu": "relu", "Hardtanh": "hardtanh", "Hardsigmoid": "hardsigmoid", "Clamp": "clamp",
    "ClampMin": "clamp", "ClampMax": "clamp", "LogSigmoid": "logsigmoid", "Softplus": "softplus",
    "Div": "division", "Exp": "exp",
}  # fmt: skip

# A loss that is the call's own result, but for rounding.
_SAME = 1e-4


@dataclass
class LossCalls:
    """Gathers the calls of loss functions, step by step."""

    _now: list[tuple[LossCall, float, Sums]] = field(default_factory=list)
    _steps: list[list[LossCall]] = field(default_factory=list)
    _constant: list[float] = field(default_factory=list)

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
            call, targets = _read(name, given.arguments, made, target.detach())
            self._now.append((call, float(out.double().mean()), targets))

    def close(self, loss: float) -> Sums:
        """The step is over; what it called counts for comparison if it made ``loss``.

        Returns:
            Sums over the targets here; those over the targets of all processes go to ``settle``.
        """
        calls: list[LossCall] = []
        targets: Sums = {}
        for call, value, found in self._now:
            # A part of a sum, or a multiple, cannot be held against what luck would get.
            own = math.isclose(value, loss, rel_tol=_SAME, abs_tol=_SAME)
            own |= not (math.isfinite(value) and math.isfinite(loss))
            targets = found if own and not calls else targets
            calls.append(call if own else replace(call, guess=math.nan))
        self._steps.append(calls)
        self._now = []
        return targets

    def settle(self, targets: Sums) -> None:
        """Takes the sums over all targets of the step that is over."""
        self._constant.append(_constant_loss(targets))

    def record(self) -> LossCall | None:
        """Of all steps together, the function that was called first; None where none was."""
        first = next((calls[0] for calls in self._steps if calls), None)
        if first is None:
            return None
        kind = first.function, first.behind
        alike = [
            call for calls in self._steps for call in calls if (call.function, call.behind) == kind
        ]
        constant = [
            value if calls and (calls[0].function, calls[0].behind) == kind else math.nan
            for value, calls in zip(self._constant, self._steps, strict=True)
        ]
        return replace(_together(alike), constant=tuple(constant))


def of_all_processes(calls: Sequence[LossCall | None]) -> LossCall | None:
    """What the calls on several processes, each with samples of its own, come to."""
    seen = [call for call in calls if call is not None]
    return _together(seen) if seen else None


def _together(calls: Sequence[LossCall]) -> LossCall:
    return replace(
        calls[0],
        input_low=min(call.input_low for call in calls),
        input_high=max(call.input_high for call in calls),
        total_low=min(call.total_low for call in calls),
        total_high=max(call.total_high for call in calls),
        target_low=min(call.target_low for call in calls),
        target_high=max(call.target_high for call in calls),
        targets_vary=any(call.targets_vary for call in calls),
    )


def _read(name: str, given: dict[str, Any], made: Tensor, target: Tensor) -> tuple[LossCall, Sums]:
    ignored = given.get("ignore_index")
    if ignored is not None and not target.is_floating_point():
        kept = target[target != ignored]
        target = kept if kept.numel() else target
    classes = made.shape[1 if made.ndim > 1 else 0] if name in _OF_CLASSES else 0
    input_low, input_high = _range(made.detach())
    total_low, total_high = _totals(name, made.detach(), input_low)
    target_low, target_high = _range(target)
    call = LossCall(
        function=name,
        behind=_behind(made),
        outputs=classes or (made.shape[-1] if made.ndim > 1 else 1),
        input_low=input_low,
        input_high=input_high,
        total_low=total_low,
        total_high=total_high,
        target_low=target_low,
        target_high=target_high,
        targets_vary=bool((target != target[:1]).any()),
        guess=_guess(name, given, classes),
        constant=(),
    )
    return call, _target_sums(name, given, classes, target)


def _guess(name: str, given: dict[str, Any], classes: int) -> float:
    """The mean loss of a prediction that favours nothing; NaN where it is not known."""
    if given.get("reduction") == "sum":
        return math.nan
    if name in _OF_CLASSES:
        return math.log(classes)
    weighted = given.get("weight") is not None or given.get("pos_weight") is not None
    return math.log(2) if name in _OF_CHANCES and not weighted else math.nan


def _target_sums(name: str, given: dict[str, Any], classes: int, target: Tensor) -> Sums:
    """What the best constant prediction follows from; empty where its loss is not known.

    That is: where the loss is summed, where weights of single classes or samples or a smoothing of
    labels change it, and where it is a loss of another kind.
    """
    if given.get("reduction") == "sum" or given.get("label_smoothing"):
        return {}
    if given.get("weight") is not None:
        return {}
    if name in _OF_CLASSES:
        if target.is_floating_point():
            others = [dim for dim in range(target.ndim) if dim != min(1, target.ndim - 1)]
            return {"labels": target.to(wide(target)).sum(dim=others)}
        counts = torch.bincount(target.reshape(-1).clamp(min=0), minlength=classes)
        return {"labels": counts.to(wide(counts))}
    values = target.to(wide(target))
    count = torch.full((), len(values), dtype=values.dtype, device=values.device)
    if name in _OF_CHANCES:
        weight = given.get("pos_weight")
        yes = values.sum(dim=0)
        no = count - yes
        yes = yes if weight is None else yes * weight.to(yes)
        return {"yes": yes, "no": no, "count": count}
    if name == "mse_loss":
        return {"numbers": values.sum(dim=0), "squares": (values**2).sum(dim=0), "count": count}
    return {}


def _constant_loss(targets: Sums) -> float:
    """The mean loss of the best prediction that is the same for all samples."""
    if "labels" in targets:
        shares = targets["labels"] / targets["labels"].sum()
        return float(torch.special.entr(shares).sum())
    if "yes" in targets:
        weights = targets["yes"] + targets["no"]
        shares = torch.stack([targets["yes"], targets["no"]]) / weights
        losses = torch.special.entr(shares).sum(dim=0)
        return float((losses * weights / targets["count"]).mean())
    if "numbers" in targets:
        mean, squares = (targets[what] / targets["count"] for what in ("numbers", "squares"))
        return float((squares - mean**2).clamp(min=0).mean())
    return math.nan


def _totals(name: str, made: Tensor, low: float) -> tuple[float, float]:
    """The range of what the classes of one prediction add up to; NaN where it tells nothing."""
    classes = min(1, made.ndim - 1)
    if name == "nll_loss":
        return _range(made.to(wide(made)).exp().sum(dim=classes))
    if name == "cross_entropy" and low >= 0:
        return _range(made.to(wide(made)).sum(dim=classes))
    return math.nan, math.nan


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
