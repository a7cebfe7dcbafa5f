"""GS203: most units of an activation are all but silent beside the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.units import seen_often_enough
from gradscope.subject import Subject

__all__ = ["DormantUnit", "Limits"]


@dataclass(frozen=True)
class Limits:
    dormant: float = limit(
        0.8, "share of a ReLU's units, less dead ones", "54 healthy networks: at most 0.56"
    )
    smooth: float = limit(
        0.3, "share of the units of others than ReLU", "54 healthy networks: none"
    )
    units: float = limit(8, "units", "of a few units most may be quiet by chance")
    observations: float = limit(200, "samples times positions", "enough for a mean")


class DormantUnit(Rule[Limits]):
    """Most units of an activation are all but silent beside the others.

    ## What it does
    A unit is dormant where the mean magnitude of its output, over all samples and positions, is at
    most 2.5 % of the mean over the units of its layer (Sokar et al. 2023). Units of a ReLU that are
    never positive are another fault and not counted again. The rule fires where too large a share
    of a site's units is dormant. The limit is higher for ReLU, many of whose units are hardly ever
    positive in any fresh network.

    ## Why it is bad
    The next layer sees next to nothing of such a unit, and gradients reach its weights through an
    output that hardly matters: most of the layer's width is paid for and not used. In networks
    that train for long on data that change (reinforcement learning, continual learning) the
    share grows until they cannot learn anything new.

    What to do: give dormant units fresh incoming weights and zero outgoing ones, and reset the
    optimizer's moments for them (ReDo). In a fresh network look at how
    its weights were made: rows that are nearly zero, or a few that are far larger than the others.
    A layer that has been trained into this state may as well be narrower.

    ## When it is wrong
    Pruned networks and layers with sparse codes (a mixture's gates, dictionary features) have
    quiet units by intent, and so have units for rare inputs: show more data.

    ## References
    Sokar, Agarwal, Castro, Evci 2023 (The dormant neuron phenomenon in deep reinforcement
    learning), section 3; Lyle et al. 2023 (Understanding plasticity in neural networks).
    """

    code = "GS203"
    name = "dormant-unit"
    limits = Limits()
    explained_by = ("GS401", "GS303", "GS301", "GS201", "GS202")
    whole = True

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        candidates = [
            site
            for site in profile.sites
            if site.dormant is not None
            and not site.is_output
            and site.units >= limits.units
            and any(site.forward_rms)
        ]
        seen = seen_often_enough(self.code, candidates, limits.observations)
        if isinstance(seen, Skipped):
            return seen
        bounds = {
            site.name: limits.smooth if site.dead is None else limits.dormant for site in seen
        }
        faulty = [site for site in seen if _quiet(site) > bounds[site.name]]
        if not faulty:
            return None
        worst = max(faulty, key=_quiet)
        bound = bounds[worst.name]
        return self.finding(
            Severity.WARNING,
            [site.name for site in faulty],
            f"{_quiet(worst):.0%} of the {worst.units} units at {worst.name} are dormant, dead "
            f"ones not counted (limit {bound:.0%}); {len(faulty)} of {len(seen)} "
            "activations are affected.",
            {
                "dormant units less dead ones, worst site": Measure(
                    _quiet(worst), bound, profile.source
                )
            },
        )

    def bad(self) -> Subject:
        return _subject("a layer widened by rows of nearly zero", 1e-4)

    def good(self) -> Subject:
        return _subject("a layer widened by rows like the others", 1.0)


def _quiet(site: SiteProfile) -> float:
    """The share of units that are dormant and not dead: dead ones are silent, thus dormant too."""
    return (site.dormant or 0.0) - (site.dead or 0.0)


def _subject(name: str, scale: float) -> Subject:
    # A small learning rate, as in fine-tuning: a larger one soon wakes them.
    return random_subject(
        name,
        lambda: _widened(scale),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    )


def _widened(scale: float) -> nn.Sequential:
    """A tanh network with a layer of 64 units, of which 56 have weights of that scale."""

    def initialise(layer: nn.Linear) -> None:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)

    model = perceptron(nn.Tanh, layers=3, initialise=initialise)
    widened = model[2]
    assert isinstance(widened, nn.Linear)
    with torch.no_grad():
        widened.weight[8:] *= scale
    return model
