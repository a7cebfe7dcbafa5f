"""GS703: the model says the same of every sample."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["ConstantOutput", "Limits"]


@dataclass(frozen=True)
class Limits:
    variation: float = limit(
        1e-6, "standard deviation across samples over RMS", "chosen: the rounding of float32"
    )


class ConstantOutput(Rule[Limits]):
    """The model says the same of every sample.

    ## What it does
    Takes the standard deviation of the model's output across the samples of a batch, over its RMS.
    The rule fires where that is no more than rounding in at least 5 of 8 steps. It is silent where
    the targets of a batch are all alike too, and on made-up data. An output that is constant at the
    first step only is normal: many models start with a last layer of zeros.

    ## Why it is bad
    Whatever the model is shown, it answers the same. The best it can then learn is the mean of the
    targets or the frequencies of the classes.

    What to do: look for the last site at which samples still differ. Frequent reasons are a softmax
    or a LayerNorm over a dimension of one unit, a mean over the batch instead of over positions, a
    clamp or ReLU behind which all outputs end, a last layer whose units are dead, and signals that
    have died on their way (see the finding that is named as the cause).

    ## When it is wrong
    Where the output is meant to describe the batch as a whole, or where what varies is another of
    several outputs: the first one that has a row for each sample is looked at.

    ## References
    Schoop, Huang, Hartmann 2021 (UMLAUT); Jing, Vincent, LeCun, Tian 2022 (Understanding
    dimensional collapse in contrastive self-supervised learning).
    """

    code = "GS703"
    name = "constant-output"
    limits = Limits()
    needs_data = True
    explained_by = (
        *("GS401", "GS701", "GS302", "GS303", "GS702", "GS301"),
        *("GS201", "GS202", "GS204", "GS206"),
    )

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        if profile.batch_size < 2:
            return Skipped(self.code, "a batch of one sample shows no variation across samples")
        if profile.loss_call is not None and not profile.loss_call.targets_vary:
            return None
        constant = [value < limits.variation for value in profile.output_variation]
        if not in_most_steps(constant) or _is_about_to_move(profile):
            return None
        variation = statistics.median(filter(math.isfinite, profile.output_variation))
        return self.finding(
            Severity.ERROR,
            at_the_output(profile),
            f"The output is the same for all {profile.batch_size} samples of a batch in "
            f"{sum(constant)} of {profile.steps} steps: they are {variation:.2g} of its RMS apart "
            f"(limit {limits.variation:g}).",
            {
                "variation of the output across samples": Measure(
                    variation, limits.variation, profile.source
                )
            },
            since=first_faulty(constant),
        )

    def bad(self) -> Subject:
        return _yes_or_no(
            "a LayerNorm over the one unit of the output",
            lambda: perceptron(nn.ReLU, layers=2, classes=1).append(nn.LayerNorm(1)),
        )

    def good(self) -> Subject:
        return _yes_or_no("the same without it", lambda: perceptron(nn.ReLU, layers=2, classes=1))


def _is_about_to_move(profile: Profile) -> bool:
    """Whether weights of zeros get a gradient that no optimizer has acted on here."""
    return profile.optimizer is None and any(
        len(parameter.shape) > 1 and parameter.weight_norm == 0 and any(parameter.gradient_norm)
        for parameter in profile.parameters
    )


def _yes_or_no(name: str, build_model: Callable[[], nn.Module]) -> Subject:
    """A random subject of two classes, for a model with a single output."""

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        logits = model(batch[0]).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch[1].float())

    return replace(random_subject(name, build_model, classes=2), step=step)
