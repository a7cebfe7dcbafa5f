"""GS401: NaN or infinity, and where it came up first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped, Source
from gradscope.rules import Rule, limit
from gradscope.rules.loss import at_the_output
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.training import TrainingProfile
from gradscope.stored import Stored, StoredRole
from gradscope.subject import Subject

__all__ = ["Limits", "NonFinite"]


@dataclass(frozen=True)
class Limits:
    elements: float = limit(0, "elements", "chosen: any")


class NonFinite(Rule[Limits]):
    """NaN or infinity, and where it came up first.

    ## What it does
    Looks for elements that are NaN or infinite: in the weights before the first step, then step by
    step in the outputs in execution order, in the loss, and in the gradients from the loss back.
    What it finds first is where to look; everything behind it follows from it.

    In a checkpoint it looks at the weights, and where these are finite, at the optimizer's moments.

    While a model trains, it takes two samples in a row: one step may have been left out.

    ## Why it is bad
    One such number makes every number that depends on it the same, within a step the whole model.

    What to do: look at the operation at the first site named. A logarithm, a root or a division
    needs a floor under its input (``x.clamp_min(1e-6).log()``), an exponential a ceiling; for
    a softmax's logarithm take ``log_softmax``. Infinite gradients of finite outputs often come
    from a root or a norm at exactly zero: add the floor inside the root. In float16, use
    ``torch.amp.GradScaler`` or bfloat16. Where numbers grew over the steps before, lower the
    learning rate.

    ## When it is wrong
    Masks filled with -inf are normal inside attention; they are seen only where they leave a
    layer as its output. GradScaler leaves out single steps whose gradients overflow, by intent.

    ## References
    IEEE 754; PyTorch documentation, ``torch.autograd.detect_anomaly``.
    """

    code = "GS401"
    name = "non-finite"
    limits = Limits()
    explained_by = ("GS701", "GS303", "GS402", "GS206", "GS102", "GS301", "GS503")

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        weights = [(entry.name, entry.nonfinite) for entry in profile.parameters]
        found = _above(weights, limits.elements)
        if found:
            return self._found(profile, limits, "weights", found, 0)
        for step, loss in enumerate(profile.losses):
            outputs = [(site.name, site.forward_nonfinite[step]) for site in profile.sites]
            gradients = [
                (site.name, site.backward_nonfinite[step]) for site in reversed(profile.sites)
            ]
            gradients += [
                (entry.name, int(not math.isfinite(entry.gradient_norm[step] or 0.0)))
                for entry in profile.parameters
            ]
            for what, counts in (
                ("outputs", outputs),
                ("loss", [(_LOSS, int(not math.isfinite(loss)))]),
                ("gradients", gradients),
            ):
                found = _above(counts, limits.elements)
                if found:
                    return self._found(profile, limits, what, found, step)
        return None

    def _found(
        self,
        profile: Profile,
        limits: Limits,
        what: str,
        found: list[tuple[str, int]],
        since: int,
        step: int | None = None,
    ) -> Finding:
        name, count = found[0]
        sites = at_the_output(profile) if name == _LOSS else [name for name, _ in found]
        where = "" if name == _LOSS else f", first at {name}"
        verb = "is" if name == _LOSS else "hold"
        return self.finding(
            Severity.ERROR,
            sites,
            f"At step {since if step is None else step} the {what} {verb} NaN or infinity{where}.",
            {f"non-finite {what}": Measure(count, limits.elements, profile.source)},
            since=since,
        )

    def check_training(self, profile: TrainingProfile, limits: Limits) -> Finding | None:
        # One step alone may have been left out, by a GradScaler or by the loop. What has got into
        # the weights stays.
        both = list(zip(profile.broken, profile.broken[1:], strict=False))
        if (True, True) not in both:
            return None
        at = both.index((True, True))
        outputs = [
            (site.name, 1) for site in profile.sites if _turned(profile, site.forward_rms, at)
        ]
        if outputs and len(outputs) == len(profile.sites):
            # The weights are not finite already: by the gradients of the sample before?
            gradients = _gradients(profile, at - 1) if at else []
            if gradients:
                return self._found(
                    profile, limits, "gradients", gradients, at - 1, profile.sampled[at - 1]
                )
            weights = [(entry.name, 1) for entry in profile.parameters if entry.nonfinite]
            if weights:
                return self._found(profile, limits, "weights", weights, at, profile.sampled[at])
        what = "outputs" if outputs else "loss"
        return self._found(profile, limits, what, outputs or [(_LOSS, 1)], at, profile.sampled[at])

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | None:
        weights = [
            (each.name, each.statistics.nonfinite)
            for each in stored.weights
            if each.role is not StoredRole.BUFFER or each.name.endswith(_STATISTICS)
        ]
        found = _above(weights, limits.elements)
        if found:
            name, count = found[0]
            (first,) = (each for each in stored.weights if each.name == name)
            where = list(first.statistics.first_nonfinite or ())
            return self.finding(
                Severity.ERROR,
                [name for name, _ in found],
                f"{len(found)} of {len(weights)} parameters hold NaN or infinity, first {name} at "
                f"{where}.",
                {"non-finite weights": Measure(count, limits.elements, Source.WEIGHTS)},
            )
        moments = [each.name for each in stored.gradients if each.nonfinite]
        if not moments:
            return None
        return self.finding(
            Severity.ERROR,
            moments,
            f"The weights are finite, but the optimizer's moments of {len(moments)} parameters "
            f"hold NaN or infinity, {moments[0]} first: the next step makes the weights the same.",
            {
                "parameters with non-finite moments": Measure(
                    len(moments), limits.elements, Source.OPTIMIZER_STATE
                )
            },
        )

    def bad(self) -> Subject:
        return random_subject("the logarithm of a negative number", _Logarithm)

    def good(self) -> Subject:
        return random_subject("the same without it", lambda: perceptron(nn.ReLU, layers=2))


# Of buffers those that make outputs; masks may well hold infinities.
_STATISTICS = ("running_mean", "running_var")

# Stands for the loss among the names of sites.
_LOSS = "loss"


def _above(counts: list[tuple[str, int]], most: float) -> list[tuple[str, int]]:
    return [(name, count) for name, count in counts if count > most]


def _gradients(profile: TrainingProfile, at: int) -> list[tuple[str, int]]:
    """What of the gradients of a sample is not finite, from the loss back."""
    if math.isfinite(profile.used_norms[at]):
        return []
    sites = [s for s in reversed(profile.sites) if _turned(profile, s.backward_rms, at)]
    return [(site.name, 1) for site in sites]


def _turned(profile: TrainingProfile, series: Sequence[float], at: int) -> bool:
    """Whether the value of that sample is not finite, and was before.

    NaN may also mean that nothing was measured. At a run's first sample all its sites were.
    """
    if math.isinf(series[at]):
        return True
    first = profile.samples == profile.steps and not at
    return math.isnan(series[at]) and (first or any(map(math.isfinite, series[:at])))


class _Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(32, 64)
        self.after = nn.Linear(64, 10)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.after(self.before(x).log())
