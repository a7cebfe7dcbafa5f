"""GS701: inputs far from a range that weights are made for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import Finding, LayerInput, Measure, Profile, Severity
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["InputScale", "Limits"]


@dataclass(frozen=True)
class Limits:
    largest: float = limit(10.0, "RMS of the inputs", "chosen; pixels from 0 to 255: about 100")
    smallest: float = limit(1e-2, "RMS of the inputs", "chosen: decision 21")
    smallest_peak: float = limit(
        0.05, "largest magnitude of the inputs", "five times the RMS: sparse inputs have more"
    )
    spread: float = limit(1e3, "largest RMS of a feature over the median's", "chosen: decision 21")


class InputScale(Rule[Limits]):
    """Inputs far from a range that weights are made for.

    ## What it does
    Looks at what the first layer with weights is given. The rule fires where the RMS of the inputs
    is above the upper limit; where it is below the lower one and no single input is of a usual
    size either (sparse inputs such as one-hot vectors have a small RMS and are fine); or where one
    feature is a thousand times as large as the median one. The fault has to show in 5 of 8 steps.
    Models that begin with a normalisation or an embedding are not looked at, and neither are
    made-up inputs.

    ## Why it is bad
    Weights are drawn, and learning rates chosen, for inputs of about unit size. Pixels from 0 to
    255 make the first layer's outputs and its gradients a hundred times as large: logits start
    far off, bounded activations are stuck in their flat parts, ReLU units die at the first update,
    and a learning rate that the first layer survives is too small for all others. Inputs that are
    far too small are drowned by the biases. Where one feature is far larger than the others, the
    loss is a narrow valley: the model sees that feature alone.

    What to do: divide pixels by 255, or subtract each feature's mean over the training data and
    divide by its standard deviation (``torchvision.transforms.Normalize``,
    ``sklearn.preprocessing.StandardScaler``); take logarithms of prices and counts; put a
    ``BatchNorm`` layer first. Do the same when the model is used.

    ## When it is wrong
    A model whose first layers undo the scale by themselves (a division in ``forward`` comes before
    the first layer and is seen; one behind it is not) or whose weights were trained on such inputs.

    ## References
    LeCun, Bottou, Orr, Müller 1998 (Efficient backprop), section 4.3; Schoop, Huang, Hartmann 2021
    (UMLAUT: Debugging deep learning programs using program structure and model behavior).
    """

    code = "GS701"
    name = "input-scale"
    limits = Limits()
    needs_data = True

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        for look in (self._too_large, self._too_small, self._uneven):
            for given in profile.first_inputs:
                if found := look(profile, given, limits):
                    return found
        return None

    def _too_large(self, profile: Profile, given: LayerInput, limits: Limits) -> Finding | None:
        # Where some have overflowed, the largest that have not tell.
        sizes = [min(rms, peak) for rms, peak in zip(given.rms, given.peak, strict=True)]
        faulty = [limits.largest < size < math.inf for size in sizes]
        if not in_most_steps(faulty):
            return None
        rms = _median(sizes)
        return self.finding(
            Severity.ERROR,
            [given.site],
            f"The inputs of {given.site} have an RMS of {rms:.3g} (limit {limits.largest:g}) and "
            f"reach {_median(given.peak):.3g}.",
            {"RMS of the inputs": Measure(rms, limits.largest, profile.source)},
            since=first_faulty(faulty),
        )

    def _too_small(self, profile: Profile, given: LayerInput, limits: Limits) -> Finding | None:
        # Inputs that are all zero have no scale.
        faulty = [
            0 < rms < limits.smallest and peak < limits.smallest_peak
            for rms, peak in zip(given.rms, given.peak, strict=True)
        ]
        if not in_most_steps(faulty):
            return None
        rms, peak = _median(given.rms), _median(given.peak)
        return self.finding(
            Severity.ERROR,
            [given.site],
            f"The inputs of {given.site} have an RMS of {rms:.2g} (limit {limits.smallest:g}), and "
            f"none is above {peak:.2g}.",
            {
                "RMS of the inputs": Measure(rms, limits.smallest, profile.source),
                "largest input": Measure(peak, limits.smallest_peak, profile.source),
            },
            since=first_faulty(faulty),
        )

    def _uneven(self, profile: Profile, given: LayerInput, limits: Limits) -> Finding | None:
        faulty = [limits.spread < spread < math.inf for spread in given.feature_spread]
        if not in_most_steps(faulty):
            return None
        spread = _median(given.feature_spread)
        return self.finding(
            Severity.WARNING,
            [given.site],
            f"The largest feature of the inputs of {given.site} is {spread:.2g} times as large as "
            f"the median one (limit {limits.spread:g}).",
            {"largest feature over the median": Measure(spread, limits.spread, profile.source)},
            since=first_faulty(faulty),
        )

    def bad(self) -> Subject:
        return random_subject("inputs that reach the layers 100 times too large", _Unscaled)

    def good(self) -> Subject:
        return random_subject("inputs as they are", lambda: perceptron(nn.ReLU, layers=2))


class _Unscaled(nn.Module):
    """Stands for a reader that hands on what sensors or files hold, such as bytes of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = perceptron(nn.ReLU, layers=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(100 * x)  # type: ignore[no-any-return]


def _median(series: Sequence[float]) -> float:
    return statistics.median(filter(math.isfinite, series))
