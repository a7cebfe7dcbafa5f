"""Multiply the learning rate by a factor."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

from torch import nn
from torch.optim import Optimizer

from gradscope.records import Change, Finding, ParameterProfile, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Training, check_number

__all__ = ["LearningRate"]

# Updates of about a thousandth to a hundredth of the weights are usual (Karpathy, CS231n notes).
_USUAL_UPDATE = 3e-3
_SMALL_UPDATE = 1e-4
_FACTORS_DOWN = (0.1, 0.03)
_FACTORS_UP = (10.0, 100.0)


class LearningRate(Remedy):
    """Multiply the learning rate by a factor.

    ## What it does
    Builds the same optimizer and multiplies the learning rate of each of its groups.

    ## When it applies
    Down, where the loss jumps, swings or diverges, where the gradient explodes, or where updates
    are a large part of the weights they move. Up, where updates are less than a ten-thousandth of
    the weights and the loss stays where it is. The factors come from what updates were seen to be,
    else they are a tenth and a thirtieth.

    ## When it must not be applied
    Against a gradient that vanishes over depth: layers that learn already would diverge long
    before the others move.

    ## Fix safety
    Safe: the model is unchanged.

    ## References
    Zhang, Zhai, Ma, Shen 2021 (AutoTrainer), section 4.3; Karpathy, CS231n notes, "Ratio of
    weights:updates"; Bengio 2012 (Practical recommendations for gradient-based training of deep
    architectures), section 3.
    """

    name = "learning-rate"
    changes = (Change.TRAINING,)
    treats = ("GS102", "GS104", "GS201", "GS202", "GS301", "GS501", "GS502", "GS503")
    parameters: ClassVar[dict[str, str]] = {"factor": "what the learning rate is multiplied by"}
    rivals_rates = False

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        size = _update(profile.parameters)
        if finding.code == "GS501" or (finding.code == "GS301" and _too_small(size)):
            if size is not None and size > _SMALL_UPDATE:
                return [
                    self.refusal(
                        f"updates are {size:.1g} of the weights, as large as usual: a larger "
                        "learning rate is not what is missing"
                    )
                ]
            reason = "updates are too small to change the weights"
            return [
                self.prescription(finding, reason, factor=factor)
                for factor in self._factors(size, up=True)
            ]
        if finding.code in ("GS201", "GS202") and (size is None or size < _USUAL_UPDATE * 3):
            return [
                self.refusal(
                    "updates are no larger than usual, so it is not the learning rate that drives "
                    "units there"
                )
            ]
        reason = "smaller steps do not overshoot, and do not drive units where they are stuck"
        return [
            self.prescription(finding, reason, factor=factor)
            for factor in self._factors(size, up=False)
        ]

    def _factors(self, size: float | None, *, up: bool) -> list[float]:
        """The factor that makes updates as large as usual, and one of the fixed ones beside it."""
        fixed = _FACTORS_UP if up else _FACTORS_DOWN
        if size is None or not size > 0:
            return list(fixed)
        wanted = float(f"{_USUAL_UPDATE / size:.0e}")
        if not (2 <= wanted <= 1e4 if up else 1e-4 <= wanted <= 0.5):
            return list(fixed)
        return list(dict.fromkeys((wanted, fixed[0])))

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        factor = check_number(self.name, "factor", prescription.parameters.get("factor"))
        build = training.build_optimizer

        def changed(parameters: Iterable[nn.Parameter]) -> Optimizer:
            optimizer = build(parameters)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor
            return optimizer

        return replace(training, build_optimizer=changed)


def _update(parameters: Iterable[ParameterProfile]) -> float | None:
    """The largest of the steps' median updates over all weights; None where none was seen."""
    weights = [each for each in parameters if len(each.shape) > 1 and each.update_ratio]
    steps = zip(*(each.update_ratio for each in weights), strict=False)
    medians = [statistics.median(step) for step in steps if all(each == each for each in step)]
    return max(medians, default=None)


def _too_small(size: float | None) -> bool:
    return size is not None and size < _SMALL_UPDATE
