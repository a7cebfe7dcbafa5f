"""GS502: the updates overshoot, and the loss swings without falling."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, first_faulty, limit
from gradscope.rules.baseline import UNKNOWN_LOSS, constant_loss
from gradscope.rules.loss import most_moved
from gradscope.rules.subjects import random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "LossOscillation"]

# Of the inputs in ``bad()`` and ``good()``, whose standard deviation is 1.
_MEAN = 3.0


@dataclass(frozen=True)
class Limits:
    share: float = limit(0.4, "share of the steps", "measured: 0.38 at three times a good rate")
    usual: float = limit(0.25, "share of the steps", "measured: most healthy networks stay below")
    p_value: float = limit(0.05, "probability", "convention: 5 of 8 steps, 17 of 40")
    rise: float = limit(1e-3, "share of the loss", "above what rounding changes")
    growth: float = limit(2.0, "second half over first", "beyond it the loss diverges (GS503)")
    jump: float = limit(2.0, "times the loss", "a jump: updates make their batches' loss so large")
    jumps: float = limit(3, "jumps", "measured: at most 1 in a healthy network")
    converged: float = limit(
        0.1, "share of a constant prediction's loss", "below it training has come far"
    )
    steps: float = limit(8, "steps", "chosen: decision 21")


class LossOscillation(Rule[Limits]):
    """The updates overshoot, and the loss swings without falling.

    ## What it does
    Passes each batch again after the update that was made from it. An update overshoots where the
    loss of that very batch is larger afterwards. The rule fires where

    - many updates overshoot, more than chance explains, but not all, and the median loss of the
      second half of the steps is no smaller than that of the first; or
    - the loss jumps three times: updates throw the loss of their batches to twice as much and above
      that of the best constant prediction, and it falls to half of that again.

    That the loss differs from batch to batch is normal and does not count. A loss that is far below
    that of the best constant prediction is near its minimum, where it need not fall: the rule is
    silent there.

    ## Why it is bad
    The optimizer jumps across the valley that it should go down in: each update throws the weights
    to the other side, as high or higher. Training makes no progress however long it runs, and a
    little more makes it diverge.

    What to do: divide the learning rate by three until the swings stop, then let it fall over
    time; or lower the momentum, which makes steps longer (0.9 makes them ten times as long).

    ## When it is wrong
    With momentum single updates overshoot in healthy training too, up to four of ten at three
    times a good learning rate, and the loss falls all the same. Losses of adversarial training
    swing by nature.

    ## References
    LeCun, Bottou, Orr, Müller 1998 (Efficient backprop), section 5; Zhang, Zhai, Ma, Shen 2021
    (AUTOTRAINER), "oscillating loss", whose swings between batches are not counted here.
    """

    code = "GS502"
    name = "loss-oscillation"
    limits = Limits()
    needs_data = True
    explained_by = ("GS701", "GS303", "GS102", "GS301")
    acts_after_update = True
    example_steps = 24

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if not profile.losses_after:
            return Skipped(self.code, "no batch was passed again after an update")
        if few := self.too_few(profile, max(limits.steps, 2)):
            return few
        constant = constant_loss(profile)
        if constant is None:
            return Skipped(self.code, UNKNOWN_LOSS)
        # Near its minimum a loss need not fall, nor one of several that play against each other.
        if not statistics.median(profile.losses) > limits.converged * constant:
            return None
        pairs = list(zip(profile.losses, profile.losses_after, strict=False))
        if not all(math.isfinite(value) for pair in pairs for value in pair):
            return None
        rises = [after - before > limits.rise * abs(before) for before, after in pairs]
        return self._swings(profile, rises, limits) or self._jumps(profile, constant, limits)

    def _swings(self, profile: Profile, rises: list[bool], limits: Limits) -> Finding | None:
        """Where many updates overshoot, and the loss stays."""
        share = sum(rises) / len(rises)
        half = len(rises) // 2
        first = statistics.median(profile.losses[:half])
        second = statistics.median(profile.losses[half:])
        # Where every update makes it larger, or it grows, the loss does not swing: it diverges.
        if not (limits.share < share < 1 and first <= second < limits.growth * first):
            return None
        if binomtest(sum(rises), len(rises), limits.usual, "greater").pvalue > limits.p_value:
            return None
        return self.finding(
            Severity.WARNING,
            most_moved(profile),
            f"In {share:.0%} of {len(rises)} steps the update makes the loss of its own batch "
            f"larger, and the loss does not fall: {first:.3g} in the first half, {second:.3g} in "
            "the second.",
            {"steps that overshoot": Measure(share, limits.share, profile.source)},
            since=first_faulty(rises),
        )

    def _jumps(self, profile: Profile, constant: float, limits: Limits) -> Finding | None:
        """Where updates throw the loss up again and again, and it falls in between."""
        jumps = [
            (step, top)
            for step, factor, top in _climbs(profile)
            if factor > limits.jump
            and top > constant
            and min(profile.losses_after[step:]) < top / limits.jump
        ]
        if len(jumps) < limits.jumps:
            return None
        tops = ", ".join(f"{top:.3g}" for _, top in jumps[:3])
        return self.finding(
            Severity.WARNING,
            most_moved(profile),
            f"{len(jumps)} times in {profile.steps} steps the updates throw the loss above the "
            f"{constant:.3g} of a constant prediction, to {tops}, and it falls again.",
            {"jumps of the loss": Measure(len(jumps), limits.jumps, profile.source)},
            since=jumps[0][0],
        )

    def bad(self) -> Subject:
        return _trained_at(0.2)

    def good(self) -> Subject:
        return _trained_at(0.002)


def _trained_at(rate: float) -> Subject:
    """Softmax regression on inputs that are not centred, which makes one direction steep."""

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0] + _MEAN), batch[1])

    subject = random_subject(
        f"a learning rate of {rate:g} on inputs around {_MEAN:g}",
        lambda: nn.Sequential(nn.Linear(32, 10)),
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
    )
    return dataclasses.replace(subject, step=step)


def _climbs(profile: Profile) -> Iterator[tuple[int, float, float]]:
    """Runs of updates that each make the loss of their batch larger.

    Yields their first step, the product of their factors, and the largest loss after one of them.
    """
    step, factor, top = 0, 1.0, 0.0
    for index, (before, after) in enumerate(
        zip(profile.losses, profile.losses_after, strict=False)
    ):
        if after > before > 0:
            step = step if top else index
            factor, top = factor * after / before, max(top, after)
        elif top:
            yield step, factor, top
            factor, top = 1.0, 0.0
