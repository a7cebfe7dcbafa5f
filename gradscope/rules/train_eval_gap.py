"""GS603: the same batches give a far larger loss in eval() than in train()."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor, nn

from gradscope.records import Finding, Measure, ModeLosses, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.baseline import constant_loss
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "TrainEvalGap"]

# What inputs are divided by in ``bad()`` and ``good()``, as pixels are by 255.
_SCALE = 100.0


@dataclass(frozen=True)
class Limits:
    gap: float = limit(
        0.7, "share of the loss in eval()", "decision 21: healthy up to 0.66, faulty from 0.71 on"
    )
    floor: float = limit(
        0.05,
        "share of a constant prediction's loss (of 1 where unknown)",
        "below it both losses are small",
    )
    memories: float = limit(
        6.0, "times 1/momentum", "measured: after three, statistics lag behind the first updates"
    )
    patience: float = limit(
        2000.0,
        "batches, 1/momentum",
        "slower statistics never arrive: twice the slowest usual ones",
    )


class TrainEvalGap(Rule[Limits]):
    """The same batches give a far larger loss in eval() than in train().

    ## What it does
    Passes batches that the model was trained on once more in ``train()`` and in ``eval()``, with
    the same weights, and compares the losses. It fires where most of the loss in ``eval()`` is due
    to the mode. That is no overfitting: the samples are the same.

    ## Why it is bad
    The model that is evaluated and shipped is another one than the model that was trained. The
    usual reasons: running statistics of BatchNorm that do not fit, because batches are tiny or
    differ from each other, or because of a momentum that is meant the other way (0.99 of
    TensorFlow is 0.01 here); something that is done in training only, such as scaling inputs or a
    normalisation; hand-made dropout without the factor 1/(1-p).

    What to do: look for ``self.training`` in your modules and make both branches agree. For
    BatchNorm take larger batches or GroupNorm, set the momentum to 0.1 or less, or recompute the
    statistics after training with ``torch.optim.swa_utils.update_bn``.

    ## When it is wrong
    Running statistics start at 0 and 1 and follow slowly: before they rest on six times
    1/momentum batches (60 by default) the rule is skipped instead, unless the momentum is so small
    that they hardly ever arrive. Where weights change quickly the statistics lag behind; the gap
    closes when the learning rate falls. Dropout alone makes ``eval()`` better, which is not
    reported.

    ## References
    Ioffe, Szegedy 2015 (Batch normalization); Wu, Johnson 2021 (Rethinking "Batch" in BatchNorm),
    section 3.
    """

    code = "GS603"
    name = "train-eval-gap"
    limits = Limits()
    needs_data = True

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        modes = profile.modes
        if modes is None:
            return None
        difference = modes.eval - modes.train
        # Of a loss that no constant prediction is known of, 1 takes the place.
        floor = limits.floor * (constant_loss(profile) or 1.0)
        if not (math.isfinite(difference) and difference > floor):
            return None
        gap = difference / max(abs(modes.eval), abs(modes.train))
        if gap <= limits.gap:
            return None
        if skipped := self._too_fresh(profile, modes, limits):
            return skipped
        return self.finding(
            Severity.WARNING,
            _where(profile, modes),
            f"On the same batches the loss is {modes.train:.3g} in train() and {modes.eval:.3g} in "
            f"eval(): {gap:.0%} of it is due to the mode.",
            {"loss in eval() due to the mode": Measure(gap, limits.gap, profile.source)},
        )

    def _too_fresh(self, profile: Profile, modes: ModeLosses, limits: Limits) -> Skipped | None:
        """Why nothing can be said while running statistics still come from their start."""
        if modes.batches_averaged is None or modes.memory is None:
            return None
        missing = limits.memories * modes.memory - modes.batches_averaged
        # Statistics that hardly ever arrive are the fault itself.
        if missing <= 0 or modes.memory > limits.patience:
            return None
        return Skipped(
            self.code,
            f"running statistics rest on {modes.batches_averaged} batches so far; give at least "
            f"{profile.steps + missing:.0f} steps (--steps)",
        )

    def bad(self) -> Subject:
        return _scaled("inputs that are scaled in training only", in_eval=False)

    def good(self) -> Subject:
        return _scaled("inputs that are always scaled", in_eval=True)


def _where(profile: Profile, modes: ModeLosses) -> tuple[str, ...]:
    """The normalisations, where they keep running statistics; else the outputs."""
    named = tuple(site.name for site in profile.sites if "batch" in site.operator.lower())
    return named if named and modes.memory is not None else at_the_output(profile)


def _scaled(name: str, *, in_eval: bool) -> Subject:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(_SCALE * batch[0]), batch[1])

    return dataclasses.replace(random_subject(name, lambda: _Scaling(in_eval)), step=step)


class _Scaling(nn.Module):
    def __init__(self, in_eval: bool) -> None:
        super().__init__()
        self.in_eval = in_eval
        self.layers = perceptron(nn.ReLU, layers=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.in_eval:
            x = x / _SCALE
        return self.layers(x)  # type: ignore[no-any-return]
