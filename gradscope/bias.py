"""How far artificial derivatives turn the gradient away from the true one.

The cosine between the two gradients, of each parameter and of all together: 1 is the same
direction, 0 a right angle, below 0 a step uphill to first order. Measured in float64, with nothing
added to a norm: an epsilon turns small gradients into a cosine of 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.batches import Batch, call_model
from gradscope.errors import PlanError, UsageError
from gradscope.patch import Patch, apply
from gradscope.profile.preserve import preserved
from gradscope.profile.sharding import whole
from gradscope.records import Bias, Change, ParameterBias, Plan

__all__ = ["bias"]

Loss = Callable[[Any, Batch], Tensor]
Step = Callable[[nn.Module, Batch], Tensor]


def bias(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss | None,
    plan: Plan | Patch,
    *,
    step: Step | None = None,
    limit: int = 8,
    seed: int = 0,
) -> Bias:
    """Compares the gradient with artificial derivatives to the true one.

    Each batch is passed twice in the modes that the model is in, both times with the same random
    numbers and from the same buffers. The gradients of all batches are summed up in float64. The
    model, its ``.grad``, modes, buffers and the global random state are as they were afterwards.

    Args:
        model: patched or not; with a patch, the one it is on.
        batches: at most ``limit`` are taken. A tensor is passed as ``model(batch)``, a pair as
            ``model(inputs)``, a mapping as ``model(**batch)``.
        loss: ``loss(output, batch)``, a scalar; None where there is a ``step``.
        plan: what is looked at: a plan, applied to the model and undone again, or a patch, which is
            taken as it is, with its strengths and whatever else it changes, and put back so.
        step: ``step(model, batch)`` computes the loss by itself, in the place of ``loss``.
        limit: how many batches are passed at most.
        seed: of the random numbers that the passes draw.

    Raises:
        UsageError: there is no batch, or the patch is on another model.
        PlanError: the plan does not fit the model, or changes more than the backward pass; the
            patch has no artificial derivative.
    """
    if (loss is None) is (step is None):
        raise UsageError("The loss is computed by a loss or by a step: give one of the two.")
    passed = step or (lambda model, batch: loss(call_model(model, batch), batch))  # type: ignore[misc]
    taken = list(itertools.islice(batches, limit))
    if not taken:
        raise UsageError("To measure the bias of a gradient takes at least one batch.")
    if isinstance(plan, Patch):
        if plan.model is not model:
            raise UsageError("The patch is on another model than the one that was given.")
        settings = plan.settings
        if not settings:
            raise PlanError("The patch has no artificial derivative, so it leaves gradients true.")
        artificial = _gradients(model, taken, passed, seed)
        strengths = [setting.strength for setting in settings]
        try:
            for setting in settings:
                setting.set(0.0)
            true = _gradients(model, taken, passed, seed)
        finally:
            for setting, strength in zip(settings, strengths, strict=True):
                setting.set(strength)
    else:
        _require_backward(plan)
        true = _gradients(model, taken, passed, seed)
        with apply(model, plan):
            artificial = _gradients(model, taken, passed, seed)
    rows = [_compared(name, [artificial[name]], [true[name]]) for name in true]
    total = _compared("(all)", list(artificial.values()), list(true.values()))
    return Bias(total, tuple(rows), len(taken))


def _require_backward(plan: Plan) -> None:
    changed = {change for each in plan.prescriptions for change in each.changes}
    if Change.BACKWARD not in changed or not changed <= {Change.BACKWARD, Change.TRAINING}:
        raise PlanError(
            "The bias of a gradient is measured of plans that change the backward pass and nothing "
            f"else of the model; this one changes {', '.join(sorted(changed)) or 'nothing'}."
        )


def _gradients(
    model: nn.Module, batches: list[Batch], step: Step, seed: int
) -> dict[str, Tensor | None]:
    """Sums of gradients over batches, in float64; None where none came."""
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    sums: dict[str, Tensor | None] = dict.fromkeys(named)
    with preserved(model, seed), torch.enable_grad():
        for batch in batches:
            step(model, batch).backward()
            for name, parameter in named.items():
                if parameter.grad is None:
                    continue
                gradient = whole(parameter.grad)
                gradient = gradient.to_dense() if gradient.is_sparse else gradient
                # Not every device has float64.
                gradient = gradient.detach().to("cpu", torch.float64)
                before = sums[name]
                sums[name] = gradient if before is None else before + gradient
                parameter.grad = None
    return sums


def _compared(
    name: str, artificial: list[Tensor | None], true: list[Tensor | None]
) -> ParameterBias:
    largest = _largest(artificial), _largest(true)
    zero = largest[0] == 0, largest[1] == 0
    if not all(map(math.isfinite, largest)) or all(zero):
        return ParameterBias(name, math.nan, math.nan, zero[1], zero[0])
    if any(zero):
        return ParameterBias(name, math.nan, math.inf if zero[1] else 0.0, zero[1], zero[0])
    # Divided by their largest element, or squares of small gradients would be zero in float64 too.
    left = [each if each is None else each / largest[0] for each in artificial]
    right = [each if each is None else each / largest[1] for each in true]
    norms = math.sqrt(_dot(left, left)), math.sqrt(_dot(right, right))
    cosine = max(-1.0, min(1.0, _dot(left, right) / norms[0] / norms[1]))
    ratio = norms[0] / norms[1] * (largest[0] / largest[1])
    return ParameterBias(name, cosine, ratio, False, False)


def _largest(gradients: list[Tensor | None]) -> float:
    """The largest magnitude of an element; NaN or infinity where there is one."""
    found = [float(each.abs().max()) for each in gradients if each is not None and each.numel()]
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def _dot(left: list[Tensor | None], right: list[Tensor | None]) -> float:
    return math.fsum(
        float(torch.dot(one.flatten(), other.flatten()))
        for one, other in zip(left, right, strict=True)
        if one is not None and other is not None
    )
