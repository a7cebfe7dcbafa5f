"""Let the learning rate grow from zero to what it is over the first steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Training, Undo, check_number

__all__ = ["WarmUp"]

_STEPS = 100
# Of a training that is known to be short, the warm-up takes this share.
_LARGEST_SHARE = 0.2


class WarmUp(Remedy):
    """Let the learning rate grow from zero to what it is over the first steps.

    ## What it does
    Step t of the first n is taken with t / n of the learning rate, t = 1, ..., n. The optimizer's
    own learning rate is put back after each step, so that a schedule of yours multiplies with it.
    Of a training that is known to be short, n is a fifth at most.

    ## When it applies
    Where the first updates throw the weights about: the loss jumps or diverges early, units die
    or saturate in the first steps, and the learning rate is right later on.

    ## When it must not be applied
    Where the learning rate is too large at all times: this only puts it off. Where a warm-up is
    there already.

    ## Fix safety
    Safe: the model is unchanged.

    ## References
    Goyal et al. 2017 (Accurate, large minibatch SGD), section 2.2; Gotmare et al. 2019 (A closer
    look at deep learning heuristics).
    """

    name = "warm-up"
    changes = (Change.TRAINING,)
    treats = ("GS104", "GS301", "GS502", "GS503")
    parameters: ClassVar[dict[str, str]] = {"steps": f"how long it grows (default {_STEPS})"}

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        ratios = [
            step for each in profile.parameters if len(each.shape) > 1 for step in each.update_ratio
        ]
        if finding.code == "GS301" and ratios and max(ratios) < 1e-3:
            return [self.refusal("updates are small already")]
        reason = "the first updates, made from weights that know nothing yet, stay small"
        return [self.prescription(finding, reason, steps=_STEPS)]

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        given = prescription.parameters.get("steps", _STEPS)
        steps = int(check_number(self.name, "steps", given, whole=True))

        def prepare(_: nn.Module, optimizer: Optimizer, planned: int | None) -> Undo:
            length = steps if planned is None else min(steps, int(_LARGEST_SHARE * planned))
            return _Growing(optimizer, length).stop

        return replace(training, prepare=(*training.prepare, prepare))


class _Growing:
    """Multiplies the learning rates for the time of each step; is idle at the end."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self._steps, self._taken = steps, 0
        self._own: list[Any] = []
        self._growing = optimizer.register_step_pre_hook(self._before)
        self._handle = optimizer.register_step_post_hook(self._after)

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        self._taken += 1
        share = min(1.0, self._taken / max(1, self._steps))
        self._own = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * share

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        for group, own in zip(optimizer.param_groups, self._own, strict=False):
            group["lr"] = own
        if self._taken >= self._steps:
            self._own = []
            self._growing.remove()

    def stop(self) -> None:
        self._growing.remove()
        self._handle.remove()
