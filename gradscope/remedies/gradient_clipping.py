"""Clip gradients before each step: their norm, or each unit's by the size of its weights."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Training, Undo, before_update, check_number

__all__ = ["GradientClipping", "clip_adaptively"]

_METHODS = ("norm", "agc")
# Brock et al. 2021, section 4.1 and equation 3.
_AGC_RATIO = 0.01
_AGC_EPSILON = 1e-3


class GradientClipping(Remedy):
    """Clip gradients before each step: their norm, or each unit's by the size of its weights.

    ## What it does
    ``norm``: where the norm of all gradients together is above ``limit``, all are multiplied by the
    same factor to bring it there; the direction stays. ``agc`` (adaptive gradient clipping): the
    gradient of each unit's incoming weights is brought to at most ``limit`` times the norm of these
    weights. It hangs on the optimizer, ahead of its update.

    ## When it applies
    Single gradients are far larger than the others, or gradients explode: over depth, over time
    steps, or because training diverges. For outliers the limit is twice the usual norm, so that
    only they are clipped.

    ## When it must not be applied
    Where it acts on most steps it is a learning rate in disguise (GS505). Against NaN: it spreads.
    To LBFGS, which reads the curvature from how gradients differ. With ``GradScaler``, unscale
    before the optimizer's step.

    ## Fix safety
    Safe: the model is unchanged.

    ## References
    Pascanu, Mikolov, Bengio 2013, algorithm 1; Brock, De, Smith, Simonyan 2021 (High-performance
    large-scale image recognition without normalization), equation 3.
    """

    name = "gradient-clipping"
    changes = (Change.TRAINING,)
    treats = ("GS102", "GS104", "GS502", "GS503", "GS602")
    parameters: ClassVar[dict[str, str]] = {
        "method": f"one of {', '.join(_METHODS)}",
        "limit": "the largest norm (default 1), or for agc the largest share of the weights' "
        f"norm (default {_AGC_RATIO:g})",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if finding.code == "GS602" and not _grows(profile):
            return [self.refusal("the gradient decays over time, and clipping makes none larger")]
        usual = _usual_norm(profile)
        limit = 1.0
        if finding.code == "GS104" and usual is not None:
            limit = float(f"{2 * usual:.2g}")
        reason = f"no step is made from a gradient of a norm above {limit:g}"
        clipped = self.prescription(finding, reason, method="norm", limit=limit)
        if finding.code == "GS602":
            return [clipped]
        reason = f"no unit's weights are moved by more than {_AGC_RATIO:.0%} of them at a time"
        return [
            clipped,
            self.prescription(finding, reason, method="agc", limit=_AGC_RATIO),
        ]

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        method = prescription.parameters.get("method", "norm")
        if method not in _METHODS:
            raise PlanError(f"{self.name} has no method {method!r}; it has {', '.join(_METHODS)}.")
        default = 1.0 if method == "norm" else _AGC_RATIO
        limit = check_number(self.name, "limit", prescription.parameters.get("limit", default))

        handles: WeakKeyDictionary[Optimizer, RemovableHandle] = WeakKeyDictionary()

        def clipping(optimizer: Optimizer) -> RemovableHandle:
            def clip() -> None:
                parameters = [each for group in optimizer.param_groups for each in group["params"]]
                if method == "norm":
                    nn.utils.clip_grad_norm_(parameters, limit)
                else:
                    clip_adaptively(parameters, limit)

            if optimizer not in handles:
                handles[optimizer] = before_update(optimizer, clip)
            return handles[optimizer]

        def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
            optimizer = training.build_optimizer(parameters)
            clipping(optimizer)
            return optimizer

        def prepare(_: nn.Module, optimizer: Optimizer, planned: int | None) -> Undo:
            # Another optimizer than the one built, where a later prescription swaps it.
            return clipping(optimizer).remove

        # Built with it, since a profile of a repaired model builds its optimizer and no more.
        return replace(training, build_optimizer=build, prepare=(*training.prepare, prepare))


def clip_adaptively(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Adaptive gradient clipping: ||G_i|| <= limit max(||W_i||, 1e-3) for each unit i, in place.

    A unit is a row of a weight of two dimensions or more, and a whole bias or gain.
    """
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None and parameter.numel():
                norm = _by_unit(parameter.detach()).clamp_min(_AGC_EPSILON)
                gradient = _by_unit(parameter.grad)
                largest = limit * norm
                factor = torch.where(gradient > largest, largest / gradient, 1.0)
                parameter.grad.mul_(factor.to(parameter.grad.dtype))


def _by_unit(tensor: Tensor) -> Tensor:
    over = list(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    norm: Tensor = torch.linalg.vector_norm(
        tensor,
        dim=over,
        keepdim=tensor.ndim > 1,
        dtype=torch.promote_types(tensor.dtype, torch.float32),
    )
    return norm


def _grows(profile: Profile) -> bool:
    decays = [step for site in profile.sites for step in site.time_decay]
    return any(decay > 1 for decay in decays)


def _usual_norm(profile: Profile) -> float | None:
    """The median over steps of the norm of all gradients together."""
    norms = []
    for step in range(profile.steps):
        seen = [each.gradient_norm[step] for each in profile.parameters if each.gradient_norm]
        norms.append(math.hypot(*(norm for norm in seen if norm is not None)))
    usual = [norm for norm in norms if math.isfinite(norm) and norm > 0]
    return statistics.median(usual) if usual else None
