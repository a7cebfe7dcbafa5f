"""GS205: the features behind some site point in one direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Role, Severity, SiteProfile, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.signal import trunk
from gradscope.rules.subjects import random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "RankCollapse"]

# The last axis alone: (samples, features).
_NO_POSITIONS = 2


@dataclass(frozen=True)
class Limits:
    directions: float = limit(
        1.3,
        "directions in which samples differ",
        "behind one unit 1.0, in healthy networks above 1.6",
    )
    tokens: float = limit(
        1.8,
        "effective rank of tokens behind attention",
        "6 layers without skips: 1.04; healthy: 3.4; their geometric mean",
    )
    enough: float = limit(
        2.0,
        "directions in which samples differ at the first site",
        "below it the inputs themselves lie on a line",
    )
    observations: float = limit(
        16, "samples times positions", "few points always lie in few directions"
    )
    outputs: float = limit(3, "outputs", "for one or two outputs one direction is all it takes")


class RankCollapse(Rule[Limits]):
    """The features behind some site point in one direction.

    ## What it does
    Takes the effective rank of a site's features: in how many directions its observations point,
    each counted by its share. Three things are found, where the first site has more and the model
    has three outputs or more:

    - a layer of one unit that everything passes;
    - from some layer to the last, samples that differ along one line only. The direction that all
      samples share counts as one more in the effective rank, so that it is compared with the rank
      that features would have which differ as much as these (their variation) along one line;
    - in a model with attention, tokens that from some site to the last are all but the same
      vector, in every sample.

    ## Why it is bad
    What has been squeezed into one direction can only be sorted along it: ten classes cannot be
    told apart by one number, and no later layer, however wide, brings back what is lost. A product
    of many matrices comes to this by itself, its largest singular value outgrowing the others, and
    so does attention, which averages tokens until all are equal.

    What to do: widen the layer of one unit (often a typing error, or a head that was meant for
    another place); lead skip connections around layers and around attention; put activations and
    normalisation between linear layers; initialise deep linear stacks with orthogonal weights
    (``nn.init.orthogonal_``).

    ## When it is wrong
    Where one number is meant to carry everything (a score, a code of one dimension). A trained
    classifier needs one direction less than it has classes, and low ranks above that are no fault.

    ## References
    Roy, Vetterli 2007 (The effective rank); Dong, Cordonnier, Loukas 2021 (Attention is not all
    you need: pure attention loses rank doubly exponentially with depth); Saxe, McClelland, Ganguli
    2014 (Exact solutions to the nonlinear dynamics of learning in deep linear networks).
    """

    code = "GS205"
    name = "rank-collapse"
    limits = Limits()
    explained_by = ("GS401", "GS302", "GS303", "GS301", "GS201", "GS202", "GS204", "GS503")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        sites = trunk(profile)
        outputs = [site.units for site in profile.sites if site.is_output]
        # Without a known output any layer may be one: a step that calls parts of a model by itself.
        if not sites or sum(outputs) < limits.outputs:
            return None
        if not _rank(sites[0]) > rank_of(limits.enough, sites[0].variation[-1]):
            return None
        attends = any(site.role is Role.ATTENTION for site in profile.sites)
        bounds = {site.name: _bound(site, limits, attends=attends) for site in sites}
        # A single unit that nothing wider follows may be a side output.
        narrow = [
            site
            for site in sites
            if sites[-1].units > 1 and site.units == 1 and not math.isnan(bounds[site.name])
        ]
        faulty = narrow or _to_the_end(sites, lambda site: _rank(site) < bounds[site.name])
        if not faulty:
            return None
        first, last = faulty[0], faulty[-1]
        rank, bound = _rank(last), bounds[last.name]
        return self.finding(
            Severity.ERROR,
            [site.name for site in faulty],
            f"All that the model knows of a sample passes 1 unit at {first.name}."
            if narrow
            else f"From {first.name} on, the features point in one direction: at {last.name} their "
            f"effective rank is {rank:.3f} of {last.units} (limit {bound:.3f}).",
            {"effective rank": Measure(rank, bound, profile.source)},
            # Ranks are taken at the last step; a layer of one unit has been there from the first.
            since=0 if narrow else profile.steps - 1,
        )

    def bad(self) -> Subject:
        return random_subject("a layer of one unit", lambda: _bottleneck(1))

    def good(self) -> Subject:
        return random_subject("a layer of sixteen units", lambda: _bottleneck(16))


def rank_of(directions: float, variation: float) -> float:
    """The effective rank of features whose samples differ in some directions, all alike.

    Args:
        directions: in which the features lie about their mean.
        variation: their standard deviation over their RMS.

    Returns:
        The exponential of the entropy of the singular values' shares, that of the mean included;
        NaN where they do not vary.
    """
    if not variation > 0:
        return math.nan
    common = math.sqrt(max(0.0, 1 - variation**2))
    each = variation / math.sqrt(directions)
    total = common + directions * each
    entropy = -directions * each / total * math.log(each / total)
    if common:
        entropy -= common / total * math.log(common / total)
    return math.exp(entropy)


def _rank(site: SiteProfile) -> float:
    """A single unit has none of its own: what it puts out lies on a line."""
    return 1.0 if site.units == 1 else site.effective_rank or math.nan


def _bound(site: SiteProfile, limits: Limits, *, attends: bool) -> float:
    """The effective rank below which a site's features have collapsed; NaN for no verdict."""
    if math.prod(site.shape) / site.units < limits.observations:
        return math.nan
    if site.units == 1:
        # A channel of one may still hold a picture.
        return limits.enough if len(site.shape) == _NO_POSITIONS else math.nan
    if len(site.shape) == _NO_POSITIONS:
        return rank_of(limits.directions, site.variation[-1])
    return limits.tokens if attends else math.nan


def _to_the_end(
    sites: Sequence[SiteProfile], collapsed: Callable[[SiteProfile], bool]
) -> list[SiteProfile]:
    """Those from where on all have collapsed."""
    return list(itertools.takewhile(collapsed, reversed(sites)))[::-1]


def _bottleneck(units: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, units), nn.Linear(units, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )
