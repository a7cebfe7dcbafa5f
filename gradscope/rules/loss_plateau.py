"""GS501: the loss does not fall although it is no better than a constant prediction's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import theilslopes
from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.baseline import UNKNOWN_LOSS
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile, loss_of_a_guess
from gradscope.subject import Subject

__all__ = ["Limits", "LossPlateau"]

# Falls are given per so many steps.
_PER_STEPS = 10

# Of fewer a third tells nothing.
_FEWEST = 9

_LAST_IN_TRAINING = 200


@dataclass(frozen=True)
class Limits:
    """Falls and rises are of the loss per 10 steps, as shares of it."""

    fall: float = limit(
        3e-3, "share per 10 steps", "measured: stuck networks below, healthy ones from 7e-3 on"
    )
    rise: float = limit(1e-2, "share per 10 steps", "a loss that grows is no plateau: GS503")
    confidence: float = limit(0.68, "probability", "convention: one standard error either way")
    settling: float = limit(1 / 3, "share of the steps", "measured: biases of the output settle")
    growth: float = limit(
        1.5, "times", "measured: gradients of stuck networks grow up to 1.4 times over the window"
    )
    near: float = limit(
        1.5, "times a constant prediction's loss", "above it nothing was learned that could grow"
    )
    around: float = limit(0.02, "share of a guess's loss, in training", "chosen: decision 30")
    steps: float = limit(60, "steps", "measured: healthy networks have left chance by then")


class LossPlateau(Rule[Limits]):
    """The loss does not fall although it is no better than a constant prediction's.

    ## What it does
    Looks at the last two thirds of 60 steps or more. It fires where the mean loss is no smaller
    than that of the best prediction which is the same for every sample (the entropy of the labels,
    the variance of the targets), and falls by less than 0.3 % per 10 steps. Losses of batches
    scatter: the slope is the Theil-Sen estimate, and the steeper end of its 68 % interval is what
    has to lie below the limit. Where only the estimate itself does, the rule is skipped and asks
    for more steps. It is silent near that level where the gradient of any weight grows meanwhile:
    that is how training leaves a plateau.

    While a model trains, the loss of a constant prediction is not known. It fires where the last
    parameter has C rows, three or more, and the loss of 200 steps stays within 2 % of ln C, which
    is what a guess among C classes gets.

    ## Why it is bad
    The model has learned nothing from its inputs yet and is not about to. The usual reasons: no
    gradient reaches the first layers, units are dead or saturated, all samples look the same to
    the last layers, or the learning rate is far too small. A plateau below that level is a model
    that has converged, and is not reported.

    What to do: follow the finding that is named as the cause. If there is none, overfit a single
    batch first: if even that fails, look for a broken path from input to loss (a detached tensor,
    a wrong axis in the softmax, labels that do not belong to the inputs); if it succeeds, raise the
    learning rate by factors of three.

    ## When it is wrong
    Inputs that say nothing about the targets allow no better loss. Deep networks without
    normalisation can rest on a plateau for some hundred steps and leave it by themselves, the
    longer the smaller the learning rate: at a third of a good one some are found here.

    ## References
    Zhang, Zhai, Ma, Shen 2021 (AUTOTRAINER), "slow convergence"; Sen 1968 (Estimates of the
    regression coefficient based on Kendall's tau); Karpathy 2019 (A recipe for training neural
    networks), "overfit one batch".
    """

    code = "GS501"
    name = "loss-plateau"
    limits = Limits()
    needs_data = True
    explained_by = (
        *("GS401", "GS302", "GS701", "GS702", "GS303", "GS103", "GS304"),
        *("GS301", "GS201", "GS202", "GS204", "GS101", "GS703"),
    )
    example_steps = 60

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        call = profile.loss_call
        if call is None:
            return Skipped(self.code, UNKNOWN_LOSS)
        if profile.optimizer is None or not call.targets_vary:
            return None
        if few := self.too_few(profile, max(limits.steps, _FEWEST)):
            return few
        window = max(_FEWEST, profile.steps - int(limits.settling * profile.steps))
        losses, constant = profile.losses[-window:], call.constant[-window:]
        if not all(math.isfinite(value) for value in (*losses, *constant)):
            return None
        level, baseline = statistics.fmean(losses), statistics.fmean(constant)
        if level < baseline or level <= 0:
            return None
        slope, steepest = _steadier(losses, constant, limits.confidence)
        fall, fastest = (-_PER_STEPS * each / level for each in (slope, steepest))
        if fall >= limits.fall or (fall < -limits.rise and fastest < 0):
            return None
        # Of a loss that is far above, gradients that grow do not say that the network is leaving.
        if level < limits.near * baseline and _growth(profile, window) > limits.growth:
            return None
        if fastest >= limits.fall:
            return Skipped(
                self.code,
                f"the loss looks flat over {window} steps, but scatters too much to tell; give "
                "more steps (--steps)",
            )
        return self.finding(
            Severity.WARNING,
            at_the_output(profile),
            f"Over the last {window} steps the loss stays at {level:.4g}, where the best constant "
            f"prediction for each batch gets {baseline:.4g}; it falls by at most "
            f"{max(fastest, 0):.2%} per {_PER_STEPS} steps.",
            {
                "fall of the loss per 10 steps, at most": Measure(
                    fastest, limits.fall, profile.source
                ),
                "loss above that of a constant prediction": Measure(
                    level - baseline, None, profile.source
                ),
            },
            since=profile.steps - window,
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        guess = loss_of_a_guess(profile)
        last = profile.recent_losses
        if guess is None or len(last) < _LAST_IN_TRAINING or not all(map(math.isfinite, last)):
            return None
        half = len(last) // 2
        before, after = statistics.fmean(last[:half]), statistics.fmean(last[half:])
        if not all(abs(level / guess - 1) < limits.around for level in (before, after)):
            return None
        # The standard error of the difference of two means.
        error = math.sqrt(2 * statistics.variance(last) / half)
        fall = (before - after + error) / guess * _PER_STEPS / half
        warms_up = profile.learning_rates[-1] > profile.learning_rates[0]
        if fall >= limits.fall or warms_up or _growth(profile, profile.steps) > limits.growth:
            return None
        return self.finding(
            Severity.WARNING,
            at_the_output(profile),
            f"Over the last {len(last)} steps the loss stays at {after:.4g}, where a guess gets "
            f"{guess:.4g}; it falls by at most {max(fall, 0):.2%} per {_PER_STEPS} steps.",
            {
                "fall of the loss per 10 steps, at most": Measure(
                    fall, limits.fall, profile.source
                ),
                "loss over that of a guess": Measure(after / guess, None, profile.source),
            },
        )

    def bad(self) -> Subject:
        return _one_hidden_layer("weights and biases that start at zero", _zero)

    def good(self) -> Subject:
        return _one_hidden_layer("weights and biases that start at random", None)


def _steadier(
    losses: Sequence[float], constant: Sequence[float], confidence: float
) -> tuple[float, float]:
    """Slope per step of the loss, and the steepest fall that its interval allows.

    Of the loss itself or of what it has above that of a constant prediction, whichever scatters
    less: the luck of which labels are in a batch shows in both where classes are unequal, in one
    where not.
    """
    above = [loss - floor for loss, floor in zip(losses, constant, strict=True)]
    estimates = [theilslopes(series, alpha=confidence) for series in (losses, above)]
    best = min(estimates, key=lambda estimate: estimate.high_slope - estimate.low_slope)
    return float(best.slope), float(best.low_slope)


def _growth(profile: Profile, window: int) -> float:
    """How much the gradient of a weight grew at most, last third of the window over first third."""
    third = window // 3
    growths = [0.0]
    for parameter in profile.parameters:
        norms = [norm or 0.0 for norm in parameter.gradient_norm[-window:]]
        # A bias of the output feels only which labels happen to be in the batch.
        if len(parameter.shape) > 1 and norms:
            before, after = statistics.median(norms[:third]), statistics.median(norms[-third:])
            growths.append(after / before if before > 0 else 0.0)
    return max(growths)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _one_hidden_layer(name: str, initialise: Callable[[nn.Linear], object] | None) -> Subject:
    return random_subject(
        name,
        lambda: perceptron(nn.Tanh, layers=1, initialise=initialise),
        shape=(128, 32),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    )
