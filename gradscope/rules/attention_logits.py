"""GS601: attention looks at one token only, or its scores grow without bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile, Skipped, Source
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.baseline import loss_over_constant
from gradscope.rules.signal import finite_median
from gradscope.rules.subjects import random_subject
from gradscope.subject import Subject

__all__ = ["AttentionLogits", "Limits"]


@dataclass(frozen=True)
class Limits:
    entropy: float = limit(0.1, "nat", "chosen: decision 21")
    untrained_entropy: float = limit(
        0.5,
        "share of the logarithm of the keys",
        "fresh: above 0.62; unscaled, Xavier: 0.15 to 0.36",
    )
    peak: float = limit(8.0, "largest score", "fresh: at most 6.5; unscaled, Xavier: 19 to 35")
    untrained: float = limit(0.9, "share of the loss of a constant prediction", "measured")
    learned: float = limit(0.5, "share of the loss of a constant prediction", "measured")
    growth: float = limit(10.0, "last peak over the first", "chosen: decision 21")
    grown: float = limit(100.0, "largest score", "Dehghani et al. 2023, section 3.2: beyond 1e4")


class AttentionLogits(Rule[Limits]):
    """Attention looks at one token only, or its scores grow without bound.

    ## What it does
    Takes, where the scores of attention are seen, their largest magnitude and the mean entropy of
    the weights that the softmax makes of them: the logarithm of the keys where all are looked at
    alike, zero where each query looks at one key. It fires where

    - the entropy of some attention is all but zero, and the model has not learned much by it;
    - the model predicts no better than a constant, and all its attention has less than half of
      the entropy that it can have: so sharp at random;
    - the scores have grown tenfold over the steps, to a hundred or more.

    The first two count only where scores are large: where they are small it is the mask that
    leaves few keys to look at.

    ## Why it is bad
    A softmax with one large score hands out one token and no gradient: queries and keys cannot
    learn to look elsewhere. Fresh weights that do so have picked their tokens by chance. Scores
    that grow get there sooner or later, and overflow in short number formats on the way; large
    models diverge of it.

    What to do: divide the scores by the root of a head's width (``q @ k.T / math.sqrt(d)``, or
    ``F.scaled_dot_product_attention``, which does); initialise query and key weights with a
    standard deviation of at most one over the root of the model's width. Against growth normalise
    queries and keys (QK-norm), use weight decay on them, or a smaller learning rate.

    ## When it is wrong
    Trained attention may be sharp and right: copying and alignment look at one token. Scores inside
    a fused kernel are seen only with ``gradscope.profile(..., attention=True)``.

    ## References
    Vaswani et al. 2017 (Attention is all you need), section 3.2.1; Zhai et al. 2023 (Stabilizing
    transformer training by preventing attention entropy collapse); Dehghani et al. 2023 (Scaling
    vision transformers to 22 billion parameters), section 3.2.
    """

    code = "GS601"
    name = "attention-logits"
    limits = Limits()
    explained_by = ("GS701", "GS303", "GS206")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        seen = [
            site
            for site in profile.sites
            if site.entropy and _keys(site) > 1 and not site.is_output
        ]
        if not seen:
            return None
        level = loss_over_constant(profile)
        # On made-up data nobody knows.
        learned = profile.source is Source.SYNTHETIC if level is None else level < limits.learned
        collapsed = [
            site for site in seen if not learned and self._sharp(site, limits, limits.entropy)
        ]
        if collapsed:
            return self._found(profile, collapsed, limits.entropy, "")
        untrained = level is not None and level >= limits.untrained
        bounds = [limits.untrained_entropy * math.log(_keys(site)) for site in seen]
        if untrained and all(
            self._sharp(site, limits, bound) for site, bound in zip(seen, bounds, strict=True)
        ):
            return self._found(profile, seen, min(bounds), "before anything is learned ")
        grown = [site for site in seen if _has_grown(site, limits)]
        return self._grown(profile, limits, grown) if grown else None

    def _sharp(self, site: SiteProfile, limits: Limits, entropy: float) -> bool:
        return finite_median(site.logit_peak) > limits.peak and in_most_steps(
            value < entropy for value in site.entropy if math.isfinite(value)
        )

    def _found(
        self, profile: Profile, sites: Sequence[SiteProfile], bound: float, when: str
    ) -> Finding:
        worst = min(sites, key=lambda site: finite_median(site.entropy))
        entropy = finite_median(worst.entropy)
        return self.finding(
            Severity.ERROR,
            [site.name for site in sites],
            f"The attention at {worst.name} has {when}an entropy of {entropy:.3g} nat over "
            f"{_keys(worst)} keys (limit {bound:.3g}), with scores up to "
            f"{finite_median(worst.logit_peak):.3g}.",
            {
                "entropy of attention, lowest": Measure(entropy, bound, profile.source),
                "largest score": Measure(finite_median(worst.logit_peak), None, profile.source),
            },
            since=first_faulty(value < bound for value in worst.entropy),
        )

    def _grown(self, profile: Profile, limits: Limits, sites: Sequence[SiteProfile]) -> Finding:
        worst = max(sites, key=_growth)
        return self.finding(
            Severity.WARNING,
            [site.name for site in sites],
            f"The largest score of the attention at {worst.name} has grown {_growth(worst):.3g} "
            f"times in {profile.steps} steps (limit {limits.growth:g}), to "
            f"{worst.logit_peak[-1]:.3g}.",
            {
                "growth of the largest score": Measure(
                    _growth(worst), limits.growth, profile.source
                ),
                "largest score": Measure(worst.logit_peak[-1], limits.grown, profile.source),
            },
            since=first_faulty(
                value > limits.growth * worst.logit_peak[0] for value in worst.logit_peak
            ),
        )

    def bad(self) -> Subject:
        return _attending("scores that are not divided by the root of the width", 1.0)

    def good(self) -> Subject:
        return _attending("scores that are", 1 / math.sqrt(_WIDTH))


_WIDTH = 32


def _keys(site: SiteProfile) -> int:
    """How many keys a query may look at, at most.

    Fused attention shows what it returns alone, which has as many rows as there are queries, and
    as many keys where attention looks at itself.
    """
    return site.shape[-2 if site.operator == "scaled_dot_product_attention" else -1]


def _growth(site: SiteProfile) -> float:
    first, last = site.logit_peak[0], site.logit_peak[-1]
    return last / first if first > 0 else math.nan


def _has_grown(site: SiteProfile, limits: Limits) -> bool:
    return limits.grown < site.logit_peak[-1] < math.inf and _growth(site) > limits.growth


class _Attention(nn.Module):
    """One head over tokens, of which the mean is classified."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_normal_(layer.weight)
        self.head = nn.Linear(_WIDTH, 10)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) * self.scale
        hidden = x + torch.softmax(scores, dim=-1) @ self.value(x)
        return self.head(hidden.mean(dim=1))  # type: ignore[no-any-return]


def _attending(name: str, scale: float) -> Subject:
    return random_subject(name, lambda: _Attention(scale), shape=(64, 12, _WIDTH))
