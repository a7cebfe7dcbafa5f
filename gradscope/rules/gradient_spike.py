"""GS104: the gradient of single steps is many times larger than before."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.baseline import constant_losses
from gradscope.rules.subjects import perceptron
from gradscope.rules.training import TrainingProfile, loss_of_a_guess
from gradscope.subject import Subject

__all__ = ["GradientSpike", "Limits"]


# Losses whose largest tells what to expect.
_MANY = 50

# Steps before a spike that must not have been near it.
_LAST = 3


@dataclass(frozen=True)
class Limits:
    spike: float = limit(10.0, "times the median of the steps before", "chosen: decision 19")
    jump: float = limit(
        5.0,
        "times the largest of the last three steps",
        "17 healthy networks in their first 100 steps, 3 seeds: at most 3.6",
    )
    learned: float = limit(
        0.5, "times a constant prediction's loss, median", "below it hard samples stand out"
    )
    loss: float = limit(
        2.0, "times a constant prediction's loss", "hard samples of a trained network: up to 1.1"
    )
    loss_in_training: float = limit(
        10.0, "times the largest loss so far", "decision 30: batches of four samples above 2"
    )
    before: float = limit(5, "steps", "a median that two odd steps do not sway")
    window: float = limit(16, "steps", "gradients of fresh networks grow tenfold within thirty")


class GradientSpike(Rule[Limits]):
    """The gradient of single steps is many times larger than before.

    ## What it does
    Takes at each step the norm of the gradient of all parameters together, clipped where hooks of
    the optimizer clip it. It fires where a step is far above the median of the steps before, and
    far above the last three of them too: the gradients of a fresh network grow as it finds its way,
    tenfold and more, but from step to step. In a network that has learned much a hard sample makes
    a gradient that is large beside others: there the loss of the step has to be twice that of the
    best constant prediction.

    While a model trains, the sampled steps are compared, and the loss of a spike has to be ten
    times the largest of all steps before: a hard sample is no fault.

    ## Why it is bad
    One step with a gradient ten times as long moves the weights as far as ten others, in a
    direction that one batch has given, and can undo what thousands of steps have learned. Adam
    then divides by that gradient for as long as its second moment remembers it, a thousand steps
    by default, and hardly moves meanwhile.

    What to do: look at the batch of that step first: corrupt targets, an outlier without limit,
    an empty sequence that something is divided by. Where the data are right, clip the gradient's
    norm (``torch.nn.utils.clip_grad_norm_``) at a few times its median, use a loss that grows
    less than quadratically (``nn.HuberLoss``), or lower the learning rate.

    ## When it is wrong
    In reinforcement learning and where rare events carry the loss, single large gradients are the
    signal. A gradient that grows because the training comes apart is called a spike too: look
    whether the learning rate is found as well.

    ## References
    Pascanu, Mikolov, Bengio 2013 (On the difficulty of training recurrent neural networks);
    Chowdhery et al. 2022 (PaLM), section 5.1; Brock et al. 2021 (High-performance large-scale
    image recognition without normalization).
    """

    code = "GS104"
    name = "gradient-spike"
    limits = Limits()
    explained_by = ("GS701", "GS303", "GS206", "GS102", "GS301")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if skipped := self.too_few(profile, limits.before + 1):
            return skipped
        whole = _norms(profile)
        ratios = [
            _over_typical(whole, step, limits) if step >= limits.before else math.nan
            for step in range(len(whole))
        ]
        floor = _harmless_loss(profile, limits)
        spikes = [
            step
            for step, ratio in enumerate(ratios)
            if ratio > limits.spike and not profile.losses[step] < floor
        ]
        if not spikes:
            return None
        worst = max(spikes, key=lambda step: ratios[step])
        return self.finding(
            Severity.WARNING,
            _largest_at(profile, worst),
            f"At step {worst} the gradient is {ratios[worst]:.3g} times as large as in the median "
            f"of the steps before (limit {limits.spike:g}); {len(spikes)} of {profile.steps} steps "
            "are above the limit.",
            {
                "gradient norm over the median before, worst step": Measure(
                    ratios[worst], limits.spike, profile.source
                ),
                "steps above the limit": Measure(len(spikes), None, profile.source),
            },
            since=spikes[0],
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        norms, first = profile.used_norms, profile.first_losses
        # Of a loss around zero no ratio says anything.
        if not (first and min(first) > 0):
            return None
        # Without the loss of a constant prediction, what tells a harmful step from a hard sample
        # is that no step of the run has had such a loss.
        ratios = [
            _over_typical(norms, at, limits)
            if at >= limits.before
            and profile.losses[at] > _highest_to_expect(profile, at, limits) > 0
            and profile.losses[at] > limits.loss * (loss_of_a_guess(profile) or 0.0)
            else math.nan
            for at in range(len(norms))
        ]
        spikes = [at for at, ratio in enumerate(ratios) if ratio > limits.spike]
        if not spikes:
            return None
        worst = max(spikes, key=lambda at: ratios[at])
        return self.finding(
            Severity.WARNING,
            _largest_at(profile, worst),
            f"At step {profile.sampled[worst]} the gradient is {ratios[worst]:.3g} times as large "
            f"as in the median of the samples before (limit {limits.spike:g}), and the loss of "
            f"{profile.losses[worst]:.3g} is the largest so far.",
            {
                "gradient norm over the median before, worst step": Measure(
                    ratios[worst], limits.spike, profile.source
                ),
            },
            since=spikes[0],
        )

    def bad(self) -> Subject:
        return _regression(corrupt=6)

    def good(self) -> Subject:
        return _regression(corrupt=None)


def _highest_to_expect(profile: TrainingProfile, at: int, limits: Limits) -> float:
    """A loss that no healthy step has after those before; the fewer there were, the larger."""
    few = max(1.0, _MANY / max(1, profile.losses_before[at]))
    return limits.loss_in_training * few**2 * profile.highest_before[at]


def _harmless_loss(profile: Profile, limits: Limits) -> float:
    """The loss below which a batch is only harder than others; of no batch for a fresh network."""
    # Not of batches in which all targets are alike; and the median, for corrupt ones vary far more.
    usual = [value for value in constant_losses(profile) if value > 0]
    typical = statistics.median(usual) if usual else 0.0
    learned = statistics.median(profile.losses) < limits.learned * typical
    return limits.loss * typical if learned else -math.inf


def _norms(profile: Profile) -> list[float]:
    """Per step the norm of the gradient of all parameters together, as updates are made from it."""
    return [
        math.hypot(*(entry.gradient_norm[step] or 0.0 for entry in profile.parameters))
        * (profile.clipping[step] if step < len(profile.clipping) else 1.0)
        for step in range(profile.steps)
    ]


def _over_typical(norms: Sequence[float], step: int, limits: Limits) -> float:
    """The norm over the median before; NaN where there is none, or no jump from the last ones."""
    value = norms[step]
    before = norms[max(0, step - round(limits.window)) : step]
    finite = [norm for norm in before if math.isfinite(norm)]
    typical = statistics.median(finite) if finite else 0.0
    if not (typical > 0 and math.isfinite(value)):
        return math.nan
    return value / typical if value > limits.jump * max(finite[-_LAST:]) else math.nan


def _largest_at(profile: Profile, step: int) -> tuple[str, ...]:
    """The parameter that has most of the gradient at that step."""
    largest = max(profile.parameters, key=lambda entry: entry.gradient_norm[step] or 0.0)
    return (largest.name,)


@dataclass(frozen=True)
class _Numbers:
    """Batches for a regression, in one of which a target may be 1000."""

    corrupt: int | None
    batches: int = 40

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(32, 1, generator=generator) / math.sqrt(32)
        for number in range(self.batches):
            inputs = torch.randn(64, 32, generator=generator)
            targets = inputs @ weights
            if number == self.corrupt:
                targets[0] = 1000.0
            yield inputs, targets


def _regression(corrupt: int | None) -> Subject:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    return Subject(
        name="a regression" if corrupt is None else "a regression on a target of 1000",
        build_model=lambda: perceptron(nn.ReLU, layers=2, classes=1),
        build_data=lambda: _Numbers(corrupt),
        step=step,
        build_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    )
