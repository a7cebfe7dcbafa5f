"""GS103: a trainable parameter gets no gradient at all."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
from gradscope.rules import Rule, in_most_steps, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.stored import GradientEvidence, Stored
from gradscope.subject import Subject

__all__ = ["Limits", "NoGradient"]


@dataclass(frozen=True)
class Limits:
    parameters: float = limit(0, "parameters", "chosen: any")
    samples: float = limit(
        16, "samples of a training", "chosen: what starts at zero has learned by then"
    )
    early: float = limit(10, "steps of a checkpoint", "chosen: residual branches that start at 0")
    fresh: float = limit(0.5, "update over weight", "1 after one step from zero, without decay")
    update: float = limit(
        1e-9,
        "update over weight, all of a checkpoint's",
        "decision 26: dead networks 5e-15 to 6e-14, healthy ones from 7e-4",
    )


# Experts to which no sample was routed, and what a reversed recurrence hands on if only its last
# output is used.
_BY_DESIGN = re.compile(r"experts?\.|_hh_l\d+_reverse$")

_WITH_WEIGHTS = (Role.LAYER, Role.NORMALISATION, Role.EMBEDDING)


class NoGradient(Rule[Limits]):
    """A trainable parameter gets no gradient at all.

    ## What it does
    Lists the parameters that require a gradient, are used by a module that ran, and got none at
    any step, or exactly zero. Zero counts only where an optimizer makes updates, and not at a bias
    beside a weight that has a gradient: what is added to all outputs alike drops out of a loss on
    their differences (ranking, critics). A model of which every parameter is frozen is found, too.

    It is a remark only where, behind others that learn, the parameters make something that looks
    set aside by intent: one of several outputs, what a single layer puts out, or a result that has
    fewer axes than all that follows it. Such are a pooled summary that this task does not ask for,
    the last residual layer of a network that sums up its skips, and a fixed table of positions.

    In a checkpoint it lists the parameters of which the optimizer remembers no gradient but zero at
    every step they took part in, and fires where the next update would move no weight at all.

    While a model trains, it lists the parameters that an optimizer has stepped and that have had no
    gradient but zero at any sampled step since the run began.

    ## Why it is bad
    They cannot learn: they stay as they were initialised, or shrink under weight decay. The usual
    reasons are a ``detach()``, ``no_grad``, ``.item()``, ``argmax`` or a step in numpy on the way
    to the loss, a result that is overwritten or left out of the loss, or a layer of dead units
    behind them.

    What to do: follow what the first parameter named makes, from call to call, to the loss:
    ``requires_grad`` of the results turns false where the graph is cut. Replace what cuts it by
    torch's own functions; round or choose with a straight-through gradient
    (``x + (rounded - x).detach()``); sample with ``rsample()``. Put the forgotten result into the
    loss, or freeze the part with ``requires_grad_(False)`` if it is not to learn.

    ## When it is wrong
    Parameters of modules that did not run (experts that no sample was routed to, a head for
    another task) are not counted. A parameter that a schedule wakes later is reported although it
    is meant so: freeze it until then. A part that is frozen by mistake cannot be told from one
    that is frozen by intent, and is not reported.
    A checkpoint does not tell which parts did not run: an expert that no sample was routed to is
    reported if the optimizer made steps with it.

    ## References
    PyTorch documentation, "Autograd mechanics".
    """

    code = "GS103"
    name = "no-gradient"
    limits = Limits()
    explained_by = ("GS401", "GS302", "GS303", "GS702", "GS201", "GS402", "GS703")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        counting = [index for index, loss in enumerate(profile.losses) if loss != 0]
        if not counting:
            return Skipped(self.code, "the loss is exactly zero, so there is nothing to learn")
        used = [entry for entry in profile.parameters if entry.reached and entry.elements]
        eligible = [entry for entry in used if entry.trainable]
        if used and not eligible and profile.optimizer is not None:
            return self._found(
                profile, limits, used, f"All {len(used)} parameters of the model are frozen."
            )
        # Behind a gate that starts at zero (ReZero, LoRA) gradients are zero until the first
        # update; where there are no updates, only a gradient that does not exist is a fault.
        zero_counts = profile.optimizer is not None
        silent = [
            parameter
            for parameter in eligible
            if not any(parameter.gradient_norm)
            and (
                zero_counts
                or in_most_steps(parameter.gradient_norm[index] is None for index in counting)
            )
            and not _cancels(parameter, profile)
        ]
        if len(silent) <= limits.parameters:
            return None
        return self._silent(profile, limits, silent, eligible, _set_aside(profile))

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        idle = {entry.name for entry in profile.idle if entry.samples >= limits.samples}
        if not idle:
            return None
        eligible = [
            entry
            for entry in profile.parameters
            if entry.trainable and entry.reached and entry.elements
        ]
        silent = [
            entry for entry in eligible if entry.name in idle and not _cancels(entry, profile)
        ]
        if len(silent) <= limits.parameters:
            return None
        aside = _set_aside_by_order(eligible, silent)
        return self._silent(profile, limits, silent, eligible, aside)

    def _silent(
        self,
        profile: Profile,
        limits: Limits,
        silent: Sequence[ParameterProfile],
        eligible: Sequence[ParameterProfile],
        aside: AbstractSet[str],
    ) -> Finding:
        cut = [entry for entry in silent if entry.module not in aside]
        said = cut or silent
        return self._found(
            profile,
            limits,
            said,
            f"{len(said)} of {len(eligible)} trainable parameters get no gradient, "
            f"{said[0].name} first"
            + ("." if cut else ": what they make looks set aside, and is not part of the loss."),
            Severity.ERROR if cut else Severity.INFO,
        )

    def _found(
        self,
        profile: Profile,
        limits: Limits,
        parameters: Sequence[ParameterProfile],
        message: str,
        severity: Severity = Severity.ERROR,
    ) -> Finding:
        return self.finding(
            severity,
            [entry.name for entry in parameters],
            message,
            {
                "parameters without gradient": Measure(
                    len(parameters), limits.parameters, profile.source
                )
            },
        )

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | Skipped | None:
        held = [
            each
            for each in stored.gradients
            if each.moment and not each.nonfinite and not _BY_DESIGN.search(each.name)
        ]
        if not held:
            return Skipped(self.code, "no optimizer's moments are stored")
        if _has_just_begun(stored, held, limits):
            return Skipped(self.code, "too few steps were made: what starts at zero passes none on")
        zero = [each.name for each in held if each.gradient_rms == 0]
        if zero:
            return self.finding(
                Severity.ERROR,
                zero,
                f"{len(zero)} of {len(held)} parameters have never had a gradient but zero, "
                f"{zero[0]} first.",
                {
                    "parameters without gradient": Measure(
                        len(zero), limits.parameters, Source.OPTIMIZER_STATE
                    )
                },
            )
        moved = [each for each in held if each.learning_rate > 0 and each.update_ratio >= 0]
        largest = max((each.update_ratio for each in moved), default=math.inf)
        if largest >= limits.update:
            return None
        return self.finding(
            Severity.INFO,
            [each.name for each in moved],
            f"No parameter gets a gradient any more, as when the loss is zero: the next update "
            f"moves none by more than {largest:.2g} of its norm (limit {limits.update:g}).",
            {
                "update over weight, largest": Measure(
                    largest, limits.update, Source.OPTIMIZER_STATE
                )
            },
        )

    def bad(self) -> Subject:
        return random_subject("a detached trunk", _Detached)

    def good(self) -> Subject:
        return random_subject("the same trunk, attached", lambda: perceptron(nn.ReLU, layers=2))


def _has_just_begun(stored: Stored, held: list[GradientEvidence], limits: Limits) -> bool:
    if stored.steps is not None:
        return stored.steps < limits.early
    # SGD counts no steps, but a weight that was zero before the first is as long as that step.
    return any(each.update_ratio > limits.fresh for each in held)


class _Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(32, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = torch.relu(self.trunk(x))
        return self.head(features)  # type: ignore[no-any-return]


def _set_aside(profile: Profile) -> set[str]:
    """Modules that no gradient reaches and that nothing which learns seems to be made of.

    Some site before them learns, and they are a single layer; or they end in one of the model's
    outputs, beside others that learn; or in something with fewer axes than every site that runs
    later and learns: axes of tokens or pixels, once gone, hardly come back.
    """
    live = [site for site in profile.sites if not _unreached(site)]
    outputs_learn = any(site.is_output for site in live)
    aside: set[str] = set()
    for reached, group in itertools.groupby(profile.sites, lambda site: not _unreached(site)):
        run = list(group)
        if reached or not live or live[0].index > run[0].index:
            continue
        later = [site for site in live if site.index > run[-1].index]
        single = sum(site.role in _WITH_WEIGHTS for site in run) == 1
        if single or (outputs_learn and any(site.is_output for site in run)):
            aside |= {site.module for site in run}
        aside |= {
            site.module
            for site in run
            if later and all(len(each.shape) > len(site.shape) for each in later)
        }
    return aside


def _set_aside_by_order(
    eligible: Sequence[ParameterProfile], silent: Sequence[ParameterProfile]
) -> set[str]:
    """The same, told from the order of the parameters: a monitor does not watch all layers.

    Nothing that comes later learns, so that it is likely a head of its own; or they are a single
    layer, behind others that learn.
    """
    idle = {entry.name for entry in silent}
    runs = [
        (reached, [entry.module for entry in run])
        for reached, run in itertools.groupby(eligible, lambda entry: entry.name not in idle)
    ]
    learn = [at for at, (reached, _) in enumerate(runs) if reached]
    aside: set[str] = set()
    for at, (reached, modules) in enumerate(runs):
        behind = not reached and learn and learn[0] < at
        if behind and (at > learn[-1] or len(set(modules)) == 1):
            aside.update(modules)
    return aside


def _unreached(site: SiteProfile) -> bool:
    return all(math.isnan(value) for value in site.backward_rms)


def _cancels(parameter: ParameterProfile, profile: Profile) -> bool:
    """Whether it is a bias that makes no difference to the loss, beside a weight that does."""
    if len(parameter.shape) != 1 or None in parameter.gradient_norm:
        return False
    layer = parameter.module
    return any(other.module == layer and any(other.gradient_norm) for other in profile.parameters)
