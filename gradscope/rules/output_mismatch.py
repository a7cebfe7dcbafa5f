"""GS702: an output that cannot be what the loss or the targets ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import nn

from gradscope.records import Finding, LossCall, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.baseline import UNKNOWN_LOSS
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "OutputMismatch"]

# What operations can return, lowest and highest; all others can return anything.
_BOUNDS = {
    "softmax": (0.0, 1.0),
    "a softmax": (0.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "log_softmax": (-math.inf, 0.0),
    "logsigmoid": (-math.inf, 0.0),
}
# Operations whose bounds are not known, unless all that they return lies on one.
_CLIPPING = ("clamp", "hardtanh")
# The last operation of a softmax that is written out.
_BY_HAND = ("division", "exp")
_REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_OF_LOG_PROBABILITIES = ("nll_loss", "kl_div")


@dataclass(frozen=True)
class Limits:
    floor: float = limit(
        0.1, "nats", "a loss of 0.1 is a probability of 0.9 for the right class, with no more room"
    )
    lowest_logit: float = limit(0.0, "logit", "logits say no below 0, as much as yes above")
    log_probability: float = limit(1e-3, "nats", "rounding: a log-probability is at most 0")
    out_of_reach: float = limit(
        0.1, "share of the targets' range", "interpolated images leave [0, 1] by less"
    )
    classes: float = limit(2, "values per prediction", "one value leaves a softmax no choice")
    rounding: float = limit(1e-2, "from a sum of 1", "bfloat16 has 8 significant bits")
    total: float = limit(0.1, "from a sum of 1", "probabilities of one prediction add up to it")


class OutputMismatch(Rule[Limits]):
    """An output that cannot be what the loss or the targets ask for.

    ## What it does
    Reads what made the input of the loss function, and the range of its input and its targets. It
    fires where no weights whatever could make the loss small:

    - a loss on logits (``cross_entropy``, ``binary_cross_entropy_with_logits``) is given what a
      softmax, sigmoid or another bounded function returned, or values that add up to 1;
    - ``nll_loss`` or ``kl_div``, which take log-probabilities, are given values above 0;
    - ``nll_loss`` is given probabilities that do not add up to 1 for each prediction, because the
      softmax ran over another dimension, such as the batch (a warning);
    - a softmax runs over a single value, so that it returns 1 whatever the model says;
    - the targets of a regression lie beyond what a sigmoid, tanh or ReLU at the end can return, or
      all outputs lie on the bound at which they are clipped.

    A ReLU before ``cross_entropy`` is a warning: large logits remain possible, small ones do not.

    ## Why it is bad
    The loss normalises by itself. A second softmax before it squeezes logits into [0, 1], so that
    with ten classes the loss cannot fall below 1.46 and gradients shrink to a tenth or less. A
    probability where its logarithm is expected turns the loss into one that is never steep where
    the model is wrong. A target of 30 behind a sigmoid only drives it into saturation.

    What to do: hand the output of the last linear layer to ``cross_entropy`` or
    ``binary_cross_entropy_with_logits``, and apply softmax or sigmoid only when predicting; put
    ``log_softmax`` before ``nll_loss``; give a single yes-or-no output a sigmoid loss instead of a
    softmax; for regression end in a linear layer, or scale the targets into the range.

    ## When it is wrong
    Targets may leave the range by a tenth of their own, as interpolated images do, but of them
    only the smallest and the largest are known: a single stray target counts as if all did. A
    density, unlike a probability, may have a logarithm above 0; compute its loss without
    ``nll_loss``. ``log_softmax`` before ``cross_entropy`` is superfluous but harmless, and not
    reported.

    ## References
    Goodfellow, Bengio, Courville 2016 (Deep Learning), section 6.2.2; PyTorch documentation,
    ``torch.nn.CrossEntropyLoss``, ``torch.nn.NLLLoss``, ``torch.nn.BCEWithLogitsLoss``.
    """

    code = "GS702"
    name = "output-mismatch"
    limits = Limits()
    needs_data = True

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        call = profile.loss_call
        if call is None:
            return Skipped(self.code, UNKNOWN_LOSS)
        return (
            self._one_class(profile, call, limits)
            or self._no_logits(profile, call, limits)
            or self._no_log_probabilities(profile, call, limits)
            or self._wrong_dimension(profile, call, limits)
            or self._unreachable_targets(profile, call, limits)
        )

    def _one_class(self, profile: Profile, call: LossCall, limits: Limits) -> Finding | None:
        over_one = call.function in ("cross_entropy", "nll_loss") or (
            # A softmax over another dimension than the last has other values than 1.
            call.behind == "softmax" and call.input_low == call.input_high == 1
        )
        if not over_one or call.outputs >= limits.classes:
            return None
        return self.finding(
            Severity.ERROR,
            at_the_output(profile),
            f"A softmax over {call.outputs} value returns 1 whatever the model says, and "
            f"{call.function} cannot change.",
            {
                "values per prediction": Measure(call.outputs, limits.classes, profile.source),
            },
        )

    def _no_logits(self, profile: Profile, call: LossCall, limits: Limits) -> Finding | None:
        call = _named(call, limits)
        floor, (low, _) = _floor(call), _bounds(call)
        given = f"{call.function} expects logits and is given what {call.behind} returns"
        if floor > limits.floor:
            return self.finding(
                Severity.ERROR,
                at_the_output(profile),
                f"{given}: the loss cannot fall below {floor:.2g} nats on every sample.",
                {"lowest loss within reach": Measure(floor, limits.floor, profile.source)},
            )
        if call.function == "cross_entropy" and low >= limits.lowest_logit:
            return self.finding(
                Severity.WARNING,
                at_the_output(profile),
                f"{given}: none below {low:g}.",
                {"lowest logit within reach": Measure(low, limits.lowest_logit, profile.source)},
            )
        return None

    def _no_log_probabilities(
        self, profile: Profile, call: LossCall, limits: Limits
    ) -> Finding | None:
        if (
            call.function not in _OF_LOG_PROBABILITIES
            or not call.input_high > limits.log_probability
        ):
            return None
        return self.finding(
            Severity.ERROR,
            at_the_output(profile),
            f"{call.function} expects log-probabilities, which are at most 0, and is given values "
            f"up to {call.input_high:.3g}{f' from {call.behind}' if call.behind else ''}.",
            {
                "largest log-probability": Measure(
                    call.input_high, limits.log_probability, profile.source
                )
            },
        )

    def _wrong_dimension(self, profile: Profile, call: LossCall, limits: Limits) -> Finding | None:
        off = _off_one(call)
        if call.function != "nll_loss" or not off > limits.total:
            return None
        return self.finding(
            Severity.WARNING,
            at_the_output(profile),
            f"The probabilities that nll_loss is given for one prediction add up to between "
            f"{call.total_low:.3g} and {call.total_high:.3g} instead of 1: is the softmax taken "
            "over the classes?",
            {
                "sum of a prediction's probabilities, off 1 by": Measure(
                    off, limits.total, profile.source
                )
            },
        )

    def _unreachable_targets(
        self, profile: Profile, call: LossCall, limits: Limits
    ) -> Finding | None:
        low, high = _bounds(call)
        if call.function not in _REGRESSION or not (math.isfinite(low) or math.isfinite(high)):
            return None
        beyond = max(low - call.target_low, call.target_high - high)
        ends = [end for end in (low, high, call.target_low, call.target_high) if math.isfinite(end)]
        extent = max(ends) - min(ends)
        if not beyond > limits.out_of_reach * extent:
            return None
        return self.finding(
            Severity.ERROR,
            at_the_output(profile),
            f"The targets of {call.function} range from {call.target_low:.3g} to "
            f"{call.target_high:.3g}, but {call.behind} returns values between {low:g} and "
            f"{high:g} only.",
            {
                "targets out of reach, share of their range": Measure(
                    beyond / extent, limits.out_of_reach, profile.source
                )
            },
        )

    def bad(self) -> Subject:
        return random_subject(
            "a softmax before cross_entropy",
            lambda: perceptron(nn.ReLU, layers=2).append(nn.Softmax(dim=1)),
        )

    def good(self) -> Subject:
        return random_subject("logits before cross_entropy", lambda: perceptron(nn.ReLU, layers=2))


def _off_one(call: LossCall) -> float:
    """How far from 1 the classes of one prediction add up, at most."""
    return max(1 - call.total_low, call.total_high - 1)


def _named(call: LossCall, limits: Limits) -> LossCall:
    """The call, with the softmax named that was worked out by hand."""
    by_hand = call.behind in _BY_HAND and call.input_low >= 0 and _off_one(call) < limits.rounding
    return replace(call, behind="a softmax") if by_hand else call


def _bounds(call: LossCall) -> tuple[float, float]:
    """The lowest and the highest value that what made the input of the loss can return."""
    if call.behind in _CLIPPING and call.input_low == call.input_high:
        return call.input_low, call.input_high
    return _BOUNDS.get(call.behind, (-math.inf, math.inf))


def _floor(call: LossCall) -> float:
    """The lowest loss that bounded logits can reach, in nats; 0 where they can reach 0.

    Of several classes, the right one is as high and all others are as low as can be. Of yes or no,
    the worse of the two answers counts.
    """
    low, high = _bounds(call)
    if call.function == "cross_entropy":
        return math.log1p((call.outputs - 1) * math.exp(low - high))
    if call.function == "binary_cross_entropy_with_logits":
        return math.log1p(math.exp(max(low, -high)))
    return 0.0
