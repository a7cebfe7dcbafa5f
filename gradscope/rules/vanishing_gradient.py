"""GS101: the backward signal dies on its way to the input."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from gradscope.records import (
    Finding,
    Measure,
    ParameterProfile,
    Profile,
    Severity,
    SiteProfile,
    Skipped,
    Source,
)
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.signal import (
    backward_sites,
    first_over_last,
    ratio_evidence,
    told,
    trunk,
    typical,
)
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.stored import GradientEvidence, LayerOrder, Stored, StoredWeight
from gradscope.subject import Subject

__all__ = ["Limits", "VanishingGradient"]


@dataclass(frozen=True)
class Limits:
    """Each is the backward signal at the first site over that at the last (dimensionless)."""

    warning: float = limit(1e-3, "ratio", "chosen; slides: 0.25^7 = 6e-5 for seven sigmoids")
    error: float = limit(1e-5, "ratio", "chosen: decision 19")
    stored: float = limit(
        1e-4,
        "ratio of gradients in a checkpoint, of biases where there are any",
        "decision 26: vanishing 3e-6, healthy 0.035",
    )
    rounding: float = limit(
        1e-4,
        "ratio of a bias's stored gradient to its weight's",
        "chosen: 1e-7 where a BatchNorm behind or the softmax of attention cancels a bias",
    )
    trend: float = limit(
        0.5,
        "Gini correlation of the logarithm of stored gradients with depth",
        "chosen: sigmoid stacks 0.9 to 1, layers in random order 0 on average",
    )
    epsilon_margin: float = limit(
        10.0,
        "times the optimizer's eps",
        "Kingma & Ba 2014: below eps the update shrinks with the gradient",
    )


class VanishingGradient(Rule[Limits]):
    """The backward signal dies on its way to the input.

    ## What it does
    Compares dL/d(output) at the first and the last activation, as RMS per sample, summed in
    squares over positions so that pooling does not count as decay. It fires when the ratio is
    below the limit in at least 5 of 8 steps, and no other site where inputs enter gets more: beside
    a trunk that learns, the small gradient of a side input (the time in a diffusion model, a
    label) is none that has vanished.

    In a checkpoint it compares what the optimizer remembers of the gradients of biases (of weights,
    where there are too few): the first over the last, in models whose gradients shrink along the
    layers and not at one of them alone. Biases that a normalisation cancels are left out.

    ## Why it is bad
    Each layer's gradient is a product of all the factors behind it. When they are below one, the
    first layers get updates too small to matter: they stay random, and what they throw away no
    later layer can bring back.

    What to do: where a bounded activation (sigmoid, tanh) stands in every layer, take ReLU, GELU or
    SELU with the initialisation that goes with it (He, LeCun), insert normalisation between the
    layers, or lead a skip connection around every two of them. If the forward must stay as it is,
    train with an artificial derivative, which is what ``gradscope fix`` tries, or with Adam.

    ## When it is wrong
    Adam and its relatives divide each gradient by its own magnitude: its scale is no fault until
    it comes near their eps, and only then does the rule fire for them. A ratio within the limit
    does not promise learning, nor does one outside forbid it.
    In a checkpoint the order of layers is that in which they were made, or a guess from their
    names.

    ## References
    Bengio, Simard, Frasconi 1994 (Learning long-term dependencies with gradient descent is
    difficult); Glorot, Bengio 2010; Hu, Zhang, Ge (Handling Vanishing Gradient Problem Using
    Artificial Derivative), section I.
    """

    code = "GS101"
    name = "vanishing-gradient"
    limits = Limits()
    explained_by = (
        *("GS401", "GS701", "GS302", "GS303", "GS702"),
        *("GS201", "GS202", "GS204", "GS103"),
    )

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        sites = backward_sites(profile)
        if len(sites) < 2:
            return Skipped(self.code, "fewer than two sites received a gradient")
        first, last = sites[0], sites[-1]
        ratios = first_over_last(sites)
        if not in_most_steps(ratio < limits.warning for ratio in told(ratios)):
            return None
        if _reaches_beside(profile, first, limits.warning * typical(last)):
            return None
        evidence: dict[str, Measure] = {}
        if profile.epsilon is not None:
            scale = _gradient_rms(profile.parameters)
            floor = limits.epsilon_margin * profile.epsilon
            if scale >= floor:
                return None
            evidence["gradient RMS of the weights nearest the input"] = Measure(
                scale, floor, profile.source
            )
        ratio = statistics.median(told(ratios))
        severe = in_most_steps(value < limits.error for value in told(ratios))
        bound = limits.error if severe else limits.warning
        evidence |= ratio_evidence(sites, ratio, bound, profile.source)
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site in sites if typical(site) < limits.warning * typical(last)],
            f"Of the backward signal at {last.name}, {ratio:.2g} is left at {first.name} "
            f"(limit {bound:g}) after {len(sites) - 1} sites.",
            evidence,
            since=first_faulty(ratio < limits.warning for ratio in ratios),
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | Skipped | None:
        return self.check(profile, limits)

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | Skipped | None:
        what, known = _compared(stored, limits.rounding)
        if len(known) < 2:
            return Skipped(self.code, "no optimizer's moments of two layers are stored")
        first, last = known[0], known[-1]
        ratio = first.gradient_rms / last.gradient_rms
        if not ratio < limits.stored or not _decays(known, limits, stored.order):
            return self._not_told(known, limits, stored.order)
        evidence = {
            f"gradient RMS of {what}, first over last": Measure(
                ratio, limits.stored, Source.OPTIMIZER_STATE
            )
        }
        if first.moment != "first" and first.epsilon > 0:
            floor = limits.epsilon_margin * first.epsilon
            if first.gradient_rms >= floor:
                return None
            evidence["gradient RMS nearest the input"] = Measure(
                first.gradient_rms, floor, Source.OPTIMIZER_STATE
            )
        return self.finding(
            Severity.ERROR if ratio < limits.error else Severity.WARNING,
            [each.name for each in known if each.gradient_rms < limits.stored * last.gradient_rms],
            f"The gradient of {first.name} is {ratio:.2g} of that of {last.name} (limit "
            f"{limits.stored:g}), as the optimizer remembers it, after {len(known) - 1} layers.",
            evidence,
        )

    def _not_told(
        self, known: Sequence[GradientEvidence], limits: Limits, order: LayerOrder
    ) -> Skipped | None:
        """Where layers that are put in order by their names may hide a decay, it is said."""
        sizes = [each.gradient_rms for each in known]
        if order is not LayerOrder.NAMES or not min(sizes) < limits.stored * max(sizes):
            return None
        return Skipped(
            self.code,
            "the file does not keep the order of the layers, and along that of their names no "
            "gradient decays",
        )

    def brought_about(self, cause: Finding, profile: Profile) -> bool:
        """Dead units, as a checkpoint tells of them, if half of the decades are lost there."""
        sources = {measure.source for measure in cause.evidence.values()}
        if cause.code != "GS201" or profile.stored is None or sources != {Source.OPTIMIZER_STATE}:
            return True
        _, known = _compared(profile.stored, self.limits.rounding)
        dead = {_module(site) for site in cause.sites}
        steps = [
            (here.name, math.log(behind.gradient_rms / here.gradient_rms))
            for here, behind in itertools.pairwise(known)
        ]
        there = sum(decades for name, decades in steps if _module(name) in dead)
        return there >= _MOST_OF_IT * sum(decades for _, decades in steps)

    def bad(self) -> Subject:
        return random_subject(
            "ten sigmoid layers",
            lambda: perceptron(
                nn.Sigmoid,
                layers=10,
                initialise=lambda layer: nn.init.xavier_normal_(layer.weight),
            ),
        )

    def good(self) -> Subject:
        return random_subject(
            "ten ReLU layers with He weights",
            lambda: perceptron(
                nn.ReLU,
                layers=10,
                initialise=lambda layer: nn.init.kaiming_normal_(layer.weight),
            ),
        )


# Of the logarithm of what is lost from the last layer to the first.
_MOST_OF_IT = 0.5


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _compared(stored: Stored, rounding: float) -> tuple[str, list[GradientEvidence]]:
    """Which parameters' gradients tell the backward signal, and these.

    A weight's gradient also has the layer's input in it, which may die on its way, too.
    """
    known = _biases(stored, rounding)
    if len(known) > 1:
        return "biases", known
    return "weights", _remembered(stored, stored.layers)


def _remembered(stored: Stored, chosen: Iterable[StoredWeight]) -> list[GradientEvidence]:
    """What is remembered of their gradients, where that is more than zero."""
    found = (stored.gradient(each.name) for each in chosen)
    return [each for each in found if each is not None and each.gradient_rms > 0]


def _biases(stored: Stored, rounding: float) -> list[GradientEvidence]:
    """Of biases, without those that the next layer takes out: their gradient is rounding alone."""
    kept = []
    for each in _remembered(stored, stored.biases):
        module, dot, last = each.name.rpartition(".")
        weight = stored.gradient(f"{module}{dot}{last.replace('bias', 'weight')}")
        if weight is None or not each.gradient_rms < rounding * weight.gradient_rms:
            kept.append(each)
    return kept


def _decays(known: Sequence[GradientEvidence], limits: Limits, order: LayerOrder) -> bool:
    """Whether gradients shrink towards the first layer, and not in one odd layer alone.

    The order of layers may be that in which a module was built and not that in which it is run, or
    a guess. Then one small gradient in the first place would look as if all of it had vanished.
    """
    if len(known) == 2:
        return order is not LayerOrder.NAMES
    sizes = [each.gradient_rms for each in known]
    half = math.sqrt(limits.stored)
    if not (sizes[1] < half * sizes[-1] and sizes[0] < half * sizes[-2]):
        return False
    logs = [math.log(size) for size in sizes]
    largest = _spread(sorted(logs))
    return largest > 0 and _spread(logs) >= limits.trend * largest


def _spread(values: Sequence[float]) -> float:
    """Sum over all pairs of how much the later one is larger."""
    return sum((2 * at - len(values) + 1) * value for at, value in enumerate(values))


def _reaches_beside(profile: Profile, first: SiteProfile, enough: float) -> bool:
    """Whether another site as near to an input as ``first`` gets that much of the signal.

    Of a module that is used again and again, as over time, its first use counts.
    """
    return any(
        site.depth <= first.depth and typical(site) >= enough
        for site in trunk(profile)
        if site.name.partition("@")[2] in ("", "0")
    )


def _gradient_rms(parameters: Sequence[ParameterProfile]) -> float:
    """Median over steps of the gradient RMS per element, of the first weight that has one."""
    for parameter in parameters:
        norms = [norm for norm in parameter.gradient_norm if norm is not None]
        if len(parameter.shape) > 1 and norms:
            return statistics.median(norms) / math.sqrt(parameter.elements)
    return math.inf
