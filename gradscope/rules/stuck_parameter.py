"""GS304: a parameter does not change although it has a gradient."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import Finding, Measure, ParameterProfile, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.signal import finite_median
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile, finite
from gradscope.subject import Subject

__all__ = ["Limits", "StuckParameter"]


@dataclass(frozen=True)
class Limits:
    steps: float = limit(3, "steps", "chosen: decision 20")
    samples: float = limit(16, "samples of a training", "chosen: decision 30")
    gradient: float = limit(
        1e-3,
        "share of the largest gradient of the parameters that do change",
        "GS101's limit: below it the gradient has vanished, which is another fault",
    )
    moving: float = limit(
        5e-5,
        "largest update over weight, of the others",
        "GS301's limit: below it the learning rate is too small for all of them",
    )


class StuckParameter(Rule[Limits]):
    """A parameter does not change although it has a gradient.

    ## What it does
    Looks for parameters that are the same to the last bit before and after each update that was
    seen, in at least 3 steps, while a gradient that is not zero reached them. A gradient a thousand
    times smaller than the others' does not count: it has vanished (GS101). Some parameters that
    stand still are a warning; it is an error where all do. Nothing is said where those that do
    change hardly move: the learning rate is too small for all of them (GS301).

    While a model trains, it is a fault if an optimizer steps a parameter that has a gradient and
    has never moved it, at a rate above zero.

    ## Why it is bad
    What does not change does not learn. Usually the optimizer was never given the parameter: it was
    made from one part of the model, or from the model before a layer was replaced, or from a
    filter of names that leaves something out. The other cause is rounding: bfloat16 has 8
    significant bits, so an update below 1/256 of a weight is lost, each time.

    What to do: make the optimizer from ``model.parameters()``, after the last layer has been put in
    place. With weights in bfloat16 or float16 keep them in float32 and run under
    ``torch.autocast``, or use an optimizer that keeps a copy in float32. Where every parameter is
    stuck, look at the learning rate: a schedule may have set it to zero.

    ## When it is wrong
    Where a part is left out of the optimizer by intent. Say so with ``requires_grad_(False)``:
    that also saves the time and memory that its gradients take.

    ## References
    PyTorch documentation, ``torch.optim``; Zamirai et al. 2020 (Revisiting bfloat16 training);
    Micikevicius et al. 2018 (Mixed precision training), section 3.1.
    """

    code = "GS304"
    name = "stuck-parameter"
    limits = Limits()
    explained_by = ("GS402",)

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.optimizer is None:
            return Skipped(self.code, "no optimizer was given, so nothing was updated")
        if skipped := self.too_few(profile, limits.steps):
            return skipped
        moving = [entry for entry in profile.parameters if any(entry.update_ratio)]
        floor = limits.gradient * _largest_gradient(moving)
        still = {
            entry.name: steps
            for entry in profile.parameters
            if not any(entry.update_ratio) and (steps := _steps_above(entry, floor))
        }
        stuck = [name for name, steps in still.items() if steps >= limits.steps]
        return self._found(profile, limits, moving, still, stuck)

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        if not profile.still:
            return None
        stood = {entry.name: entry.samples for entry in profile.still}
        moving = [entry for entry in profile.parameters if any(finite(entry.update_ratio))]
        floor = limits.gradient * _largest_gradient(moving)
        still = {
            entry.name: stood[entry.name]
            for entry in profile.parameters
            if entry.name in stood and _steps_above(entry, floor)
        }
        stuck = [name for name, samples in still.items() if samples >= limits.samples]
        return self._found(profile, limits, moving, still, stuck)

    def _found(
        self,
        profile: Profile,
        limits: Limits,
        moving: Sequence[ParameterProfile],
        still: Mapping[str, int],
        stuck: Sequence[str],
    ) -> Finding | None:
        if not stuck or (len(stuck) < len(moving) and _fastest(moving) < limits.moving):
            return None
        steps = max(still[name] for name in stuck)
        message = (
            f"{len(stuck)} parameters have a gradient and do not change in {steps} steps, "
            f"{stuck[0]} first."
            if moving
            else f"No parameter changes in {steps} steps, although {len(stuck)} have a gradient: "
            f"{profile.optimizer} makes no updates."
        )
        return self.finding(
            Severity.WARNING if moving else Severity.ERROR,
            stuck,
            message,
            {
                "steps with a gradient and without a change": Measure(
                    steps, limits.steps, profile.source
                ),
                "parameters that change": Measure(len(moving), None, profile.source),
            },
        )

    def bad(self) -> Subject:
        def before_the_head(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            # Made before the head, a weight and a bias, was replaced.
            return torch.optim.SGD(list(parameters)[:-2], lr=0.05)

        return random_subject(
            "an optimizer without the head", _model, build_optimizer=before_the_head
        )

    def good(self) -> Subject:
        return random_subject("an optimizer with all parameters", _model)


def _model() -> nn.Module:
    return perceptron(nn.ReLU, layers=2)


def _largest_gradient(parameters: Sequence[ParameterProfile]) -> float:
    """The largest of the parameters' gradient RMS per element, median over steps; else 0."""
    sizes = [
        _rms(entry, finite_median(norm or 0.0 for norm in entry.gradient_norm))
        for entry in parameters
    ]
    return max((size for size in sizes if math.isfinite(size)), default=0.0)


def _steps_above(parameter: ParameterProfile, floor: float) -> int:
    """How many steps brought a finite gradient of an RMS above ``floor``."""
    return sum(floor < _rms(parameter, norm) < math.inf for norm in parameter.gradient_norm if norm)


def _rms(parameter: ParameterProfile, norm: float) -> float:
    return norm / math.sqrt(parameter.elements)


def _fastest(moving: Sequence[ParameterProfile]) -> float:
    """The largest of the medians of their update ratios, those of zero weights left out."""
    ratios = ([each for each in entry.update_ratio if each < math.inf] for entry in moving)
    return max((statistics.median(each) for each in ratios if each), default=math.inf)
