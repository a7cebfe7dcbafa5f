"""GS505: the gradient is clipped in most steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, first_faulty, limit
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["ClipCensoring", "Limits"]


@dataclass(frozen=True)
class Limits:
    share: float = limit(0.5, "share of the steps", "chosen: decision 21")
    kept: float = limit(
        0.99, "share of the gradient's norm", "rounding, and the 1e-6 that torch's clipping adds"
    )


class ClipCensoring(Rule[Limits]):
    """The gradient is clipped in most steps.

    ## What it does
    Compares the norm of the gradient before and after the hooks that the optimizer runs ahead of
    its update, and counts the steps in which they made it smaller.

    ## Why it is bad
    Clipping is meant for the rare outlier. Where it acts on most steps every update has the same
    length, whatever the gradient: the threshold has become the learning rate, which no longer
    means what its number says, and the size of the gradient, which tells that training converges
    or comes apart, is hidden. It is no fault by itself, so this is a remark.

    What to do: log the norms before clipping and set the threshold to what 90 % of the steps stay
    below, or keep it and know that the step size is threshold times learning rate. A threshold far
    below all norms often hides a learning rate that is too high: try a smaller one unclipped.

    ## When it is wrong
    Language models are often trained with a threshold of 1 that clips all early steps, by intent.
    Under Adam and its relatives the length of the gradient drops out of the update, so that
    clipping which acts always does next to nothing. Clipping outside the optimizer's hooks, in
    the training loop, is not seen.

    ## References
    Pascanu, Mikolov, Bengio 2013 (On the difficulty of training recurrent neural networks),
    section 3.2; Zhang, He, Sra, Jadbabaie 2020 (Why gradient clipping accelerates training).
    """

    code = "GS505"
    name = "clip-censoring"
    limits = Limits()
    explained_by = ("GS303", "GS102", "GS301", "GS104")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.optimizer is None:
            return Skipped(self.code, "no optimizer was given, so no update was clipped")
        kept = [share for share in profile.clipping if math.isfinite(share)]
        clipped = [share < limits.kept for share in kept]
        share = sum(clipped) / len(clipped) if clipped else 0.0
        if not share > limits.share:
            return None
        typical = statistics.median(kept)
        return self.finding(
            Severity.INFO,
            _largest_gradient(profile),
            f"The gradient is clipped in {share:.0%} of {len(kept)} steps, to {typical:.2g} of its "
            "norm in the median.",
            {
                "clipped steps": Measure(share, limits.share, profile.source),
                "norm kept, median": Measure(typical, limits.kept, profile.source),
            },
            since=first_faulty(share < limits.kept for share in profile.clipping),
        )

    def bad(self) -> Subject:
        return _clipped_at(1e-3)

    def good(self) -> Subject:
        return _clipped_at(1.0)


def _largest_gradient(profile: Profile) -> tuple[str, ...]:
    """The parameter with the largest gradient, to which clipping is mostly due."""
    norms = [
        (statistics.median(finite), parameter.name)
        for parameter in profile.parameters
        if (
            finite := [
                norm for norm in parameter.gradient_norm if norm is not None and math.isfinite(norm)
            ]
        )
    ]
    return (max(norms)[1],) if norms else at_the_output(profile)


def _clipped_at(threshold: float) -> Subject:
    def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        weights = list(parameters)

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(weights, threshold)

        optimizer = torch.optim.SGD(weights, lr=0.05)
        optimizer.register_step_pre_hook(clip)
        return optimizer

    return random_subject(
        f"gradients clipped at {threshold:g}",
        lambda: perceptron(nn.ReLU, layers=2),
        build_optimizer=build_optimizer,
    )
