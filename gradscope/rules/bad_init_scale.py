"""GS303: weights drawn on a scale that makes signals grow or die from layer to layer."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from torch import nn

from gradscope.records import (
    Finding,
    Measure,
    ParameterProfile,
    Profile,
    Role,
    Severity,
    SiteProfile,
    Skipped,
    Source,
)
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.weight_scale import (
    LARGEST_USUAL,
    as_drawn,
    free_layers,
    fresh_spread,
    scale,
    smallest_usual,
)
from gradscope.stored import Stored, StoredRole
from gradscope.subject import Subject

__all__ = ["BadInitScale", "Limits"]

# Their outputs are bounded: weights that are too large show in nothing but themselves.
_RECURRENT = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


@dataclass(frozen=True)
class Limits:
    """A layer is off where its scale is outside the usual range by more than ``factor``."""

    factor: float = limit(
        1.5,
        "times the largest or smallest usual scale",
        "trained healthy networks: hidden up to 1.6",
    )
    growth: float = limit(
        4.0, "product of the factors of all layers", "N(0, 1) in one layer of 64: 5.7"
    )
    size: float = limit(
        5.0, "RMS of an output over the input's, or over 1", "fresh healthy networks: up to 2.7"
    )
    loss: float = limit(2.0, "times the loss of a guess", "that of GS504")
    decay: float = limit(
        20.0,
        "product of the factors of all layers",
        "N(0, 0.01) in three layers of 128: 53; healthy networks: up to 4.1, of sines 150",
    )
    left: float = limit(
        0.01,
        "share of the input's signal",
        "N(0, 0.01) in three layers of 64: 0.006; a healthy network of sines: 0.045",
    )
    left_in_time: float = limit(1e-14, "ratio of backward signals", "that of GS602")
    fresh: float = fresh_spread()
    stored_large: float = limit(
        30.0,
        "RMS of a weight times the root of its fan-in, in a checkpoint",
        "decision 26: blown up 39 to 45, healthy up to 5.8; T5's are large by design",
    )
    stored_small: float = limit(
        0.2, "as stored_large", "decision 26: N(0, 0.01) 0.1, healthy from 0.45"
    )


class BadInitScale(Rule[Limits]):
    """Weights drawn on a scale that makes signals grow or die from layer to layer.

    ## What it does
    A layer adds up as many products as it has inputs (its fan-in), so its weights have to be the
    smaller the more there are. The rule takes the RMS of each weight times the root of its fan-in,
    which is the factor by which the layer multiplies a signal. Usual initialisations give 0.58
    (PyTorch's layers), 1 (Xavier, LeCun) or 1.41 (He). A layer that is outside this range by more
    than the limit counts as off. The rule fires when two things come together: the factors of all
    such layers multiply to more than the limit, and the signal is seen to suffer at the first
    step. For weights that are too large, an output is several times as large as the model's input,
    or the first loss is far above that of a guess; for weights that are too small, hardly anything
    of what tells samples apart is left at the last hidden layer, or, for recurrent weights, of the
    backward signal at the far end of time.

    Layers with a normalisation right behind them are left out: it undoes their scale. So are those
    of queries and keys, whose scale shows in the scores of attention; last layers that are too
    small (many start at zero); frozen weights; and models that have been trained: the rows of some
    weight differ in length by more than random ones do, or the loss is below that of the best
    constant prediction.

    In a checkpoint nothing shows what the signal suffers, nor whether the weights are fresh. There
    the median over the hidden weights has to be far outside what initialisations and training
    give, and models with any normalisation are left out.

    ## Why it is bad
    The factors of all layers multiply, forward and backward. Where they are above one, outputs and
    gradients explode, logits start out far from any sensible guess, and sigmoid, tanh and softmax
    are stuck in their flat parts. Where they are below one, all samples soon look the same to the
    layers behind, and the first layers get no gradient: the loss stays where it is.

    What to do: leave the weights as PyTorch draws them, or draw them with
    ``torch.nn.init.kaiming_normal_`` (before ReLU and its like) or ``xavier_normal_`` (before tanh
    and sigmoid). A fixed standard deviation such as 1 or 0.01 suits one width only. Normalisation
    layers make a network insensitive to the scale.

    ## When it is wrong
    Made-up inputs are not looked at: whether a model has been trained is told from its loss. Where
    the loss is computed without torch's loss functions, a model without normalisation layers
    counts as fresh, and weights that have grown in training may be taken for a start.
    In a checkpoint, weights that decay has shrunk or a rate too large has blown up look as if they
    had been drawn like that.

    ## References
    Glorot, Bengio 2010 (Understanding the difficulty of training deep feedforward neural
    networks); He et al. 2015 (Delving deep into rectifiers); Saxe, McClelland, Ganguli 2014 (Exact
    solutions to the nonlinear dynamics of learning in deep linear neural networks).
    """

    code = "GS303"
    name = "bad-init-scale"
    limits = Limits()
    needs_data = True

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        if not profile.losses or _trained(profile, limits.fresh):
            return None
        layers = free_layers(profile)
        return (
            self._too_large(profile, layers, limits)
            or self._too_small(profile, layers, limits)
            or self._too_small_over_time(profile, layers, limits)
        )

    def _too_large(
        self, profile: Profile, layers: dict[SiteProfile, list[ParameterProfile]], limits: Limits
    ) -> Finding | None:
        factors = {
            site: max(scale(weight) / LARGEST_USUAL for weight in weights)
            for site, weights in layers.items()
        }
        off = [site for site, factor in factors.items() if factor > limits.factor]
        growth = math.prod(factors[site] for site in off)
        given = profile.first_inputs[0].rms[0] if profile.first_inputs else 1.0
        sizes = [site.forward_rms[0] / max(1.0, given) for site in layers]
        size = max(filter(math.isfinite, sizes), default=0.0)
        guess = profile.loss_call.guess if profile.loss_call else math.nan
        suffers = (
            size > limits.size
            or profile.losses[0] > limits.loss * guess
            or any(site.operator in _RECURRENT for site in off)
        )
        if not (off and growth > limits.growth and suffers):
            return None
        worst = max(off, key=lambda site: factors[site])
        return self.finding(
            Severity.ERROR,
            [site.name for site in off],
            f"The weights of {worst.name} are {factors[worst]:.2g} times as large as He's for "
            f"their fan-in; {len(off)} of {len(layers)} layers without a normalisation are more "
            f"than {limits.factor:g} times too large, {growth:.2g} times together "
            f"(limit {limits.growth:g}).",
            {
                "weights too large, all layers together": Measure(
                    growth, limits.growth, profile.source
                ),
                "largest output of a layer, RMS over the input's": Measure(
                    size, limits.size, profile.source
                ),
            },
        )

    def _too_small(
        self, profile: Profile, layers: dict[SiteProfile, list[ParameterProfile]], limits: Limits
    ) -> Finding | None:
        trunk = [site for site in layers if not site.branch]
        last = max((site.depth for site in profile.sites if site.role is Role.LAYER), default=0)
        factors = {
            site: min(smallest_usual(weight) / scale(weight) for weight in layers[site])
            for site in trunk
            if site.depth < last and all(scale(weight) for weight in layers[site])
        }
        off = [site for site, factor in factors.items() if factor > limits.factor]
        decay = math.prod(factors[site] for site in off)
        if not (off and decay > limits.decay):
            return None
        hidden = [site for site in profile.sites if not site.branch and site.depth < last]
        end = max(hidden, key=lambda site: (site.depth, site.index))
        given = _signal_given(profile)
        left = _signal(end) / given if given else math.nan
        if not left < limits.left:
            return None
        worst = max(off, key=lambda site: factors[site])
        return self.finding(
            Severity.ERROR,
            [site.name for site in off],
            f"The weights of {worst.name} are {factors[worst]:.2g} times smaller than usual for "
            f"their fan-in; {len(off)} of {len(factors)} hidden layers without a normalisation are "
            f"more than {limits.factor:g} times too small, and {left:.2g} of the input's signal is "
            f"left at {end.name} (limit {limits.left:g}).",
            {
                "weights too small, all layers together": Measure(
                    decay, limits.decay, profile.source
                ),
                "signal left at the last hidden layer, share of the input's": Measure(
                    left, limits.left, profile.source
                ),
            },
        )

    def _too_small_over_time(
        self, profile: Profile, layers: dict[SiteProfile, list[ParameterProfile]], limits: Limits
    ) -> Finding | None:
        for site, weights in layers.items():
            factors = [
                smallest_usual(weight) / scale(weight)
                for weight in weights
                if ".weight_hh" in weight.name and scale(weight)
            ]
            ratios = [ratio for ratio in site.time_decay if math.isfinite(ratio)]
            if not factors or not ratios:
                continue
            factor, left = min(factors), statistics.median(ratios)
            if factor > limits.decay and left < limits.left_in_time:
                return self.finding(
                    Severity.ERROR,
                    [site.name],
                    f"The recurrent weights of {site.name} are {factor:.2g} times smaller than "
                    f"usual (limit {limits.decay:g}), and {left:.2g} of the backward signal is "
                    f"left after {site.time_steps} time steps (limit {limits.left_in_time:g}).",
                    {
                        "recurrent weights too small": Measure(
                            factor, limits.decay, profile.source
                        ),
                        "backward signal, far over near end of time": Measure(
                            left, limits.left_in_time, profile.source
                        ),
                    },
                )
        return None

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | Skipped | None:
        if any(each.role is StoredRole.SCALE for each in stored.weights):
            # Transformers' weights are small before the last LayerNorm, and none the worse for it.
            return Skipped(self.code, "the model has normalisations, which undo any scale")
        scales = {layer.name: layer.scale for layer in stored.hidden}
        if len(scales) < 2:
            return Skipped(self.code, "fewer than two hidden layers")
        middle = statistics.median(scales.values())
        if middle > limits.stored_large:
            bound, how = limits.stored_large, "above"
        elif middle < limits.stored_small:
            bound, how = limits.stored_small, "below"
        else:
            return None
        return self.finding(
            Severity.WARNING,
            [name for name, value in scales.items() if (value > bound) == (how == "above")],
            f"RMS of a weight times the root of its fan-in is {middle:.2g}, in the median over "
            f"{len(scales)} hidden layers: {how} {bound:g}; 0.6 to 1.4 is usual at the start.",
            {
                "scale of a hidden weight, median": Measure(middle, bound, Source.WEIGHTS),
            },
        )

    def bad(self) -> Subject:
        return random_subject(
            "ReLU layers with weights from N(0, 1)",
            lambda: perceptron(
                nn.ReLU,
                layers=3,
                initialise=lambda layer: nn.init.normal_(layer.weight, std=1.0),
            ),
        )

    def good(self) -> Subject:
        return random_subject(
            "ReLU layers with He weights",
            lambda: perceptron(
                nn.ReLU,
                layers=3,
                initialise=lambda layer: nn.init.kaiming_normal_(layer.weight),
            ),
        )


def _trained(profile: Profile, spread: float) -> bool:
    """Whether the weights are no fresh ones.

    Told from their rows; from the first loss; and where it says nothing, from normalisations,
    which start at one or zero.
    """
    if not as_drawn(profile, spread):
        return True
    constant = profile.loss_call.constant if profile.loss_call else ()
    if constant and math.isfinite(constant[0]):
        return profile.losses[0] < constant[0]
    norms = {site.module for site in profile.sites if site.role is Role.NORMALISATION}
    return any(
        parameter.module in norms
        and not any(
            math.isclose(parameter.weight_norm, start, rel_tol=1e-6)
            for start in (0.0, math.sqrt(parameter.elements))
        )
        for parameter in profile.parameters
    )


def _signal(site: SiteProfile) -> float:
    """How far the samples of the first batch are apart; the RMS for a batch of one."""
    variation = site.variation[0]
    return site.forward_rms[0] * (1.0 if math.isnan(variation) else variation)


def _signal_given(profile: Profile) -> float:
    """The same of the model's input, where that is known; else of the first site."""
    given = next(iter(profile.first_inputs), None)
    if given is None or not profile.input_variation:
        return _signal(profile.sites[0])
    variation = profile.input_variation[0]
    return given.rms[0] * (1.0 if math.isnan(variation) else variation)
