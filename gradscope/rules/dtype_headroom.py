"""GS402: numbers too large or too small for the floating point type that holds them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.subject import Subject

__all__ = ["DtypeHeadroom", "Limits"]

# The largest bfloat16: who comes near it has another problem than the type.
_WIDE = torch.finfo(torch.bfloat16).max


@dataclass(frozen=True)
class Limits:
    warning_peak: float = limit(
        0.25,
        "largest magnitude over the type's largest number",
        "two doublings are left; Sun et al. 2024: healthy language models reach 0.1 in float16",
    )
    error_peak: float = limit(
        0.9, "largest magnitude over the type's largest number", "chosen: decision 20"
    )
    squared: float = limit(
        1.0,
        "square of the largest magnitude over the type's largest number",
        "arithmetic: variances and norms sum squares",
    )
    warning_subnormal: float = limit(
        0.1, "share of the gradient's elements", "chosen; He weights: up to 0.04"
    )
    error_subnormal: float = limit(0.5, "share of the gradient's elements", "chosen: most of them")


class DtypeHeadroom(Rule[Limits]):
    """Numbers too large or too small for the floating point type that holds them.

    ## What it does
    float16 holds numbers up to 65,504, and below 6e-5 (subnormal numbers) it loses one digit after
    the other until, below 6e-8, it has only zero. The rule compares the largest output of each site
    with the largest number of its type, at every step. Types with the range of float32, bfloat16
    among them, are left out: what comes near their largest number explodes in any type. Where an
    output is infinite or NaN already, it looks whether the outputs before it were so large that
    their squares, which variances and norms add up, do not fit the type. Of the
    gradients in float16 it counts which share of the elements that are not zero is subnormal, and
    it looks for the place from which on they are all zero though the loss is not. For gradients,
    the fault has to show in 5 of 8 steps.

    ## Why it is bad
    One step past the largest number lies infinity, which turns into NaN in the next subtraction,
    normalisation or softmax. Gradients that are too small are rounded to a few bits, then to zero:
    the layers nearest the input stop learning first, and nothing says so.

    What to do: for gradients, scale the loss before ``backward()`` (``torch.amp.GradScaler``; in
    ``gradscope.profile`` give the same scale as ``loss_scale``). For outputs, normalise before the
    layer that overflows, divide before summing rather than after, or compute that part in float32.
    For both, bfloat16 has the range of float32.

    ## When it is wrong
    Where training scales the loss but the subject's ``loss`` does not, gradients look smaller here
    than they are there. Masks filled with the smallest number of a type are meant to be there; they
    count only where they leave a layer as its output.

    ## References
    Micikevicius et al. 2018 (Mixed precision training); Sun, Chen, Kolter, Liu 2024 (Massive
    activations in large language models); PyTorch documentation, "Automatic mixed precision".
    """

    code = "GS402"
    name = "dtype-headroom"
    limits = Limits()
    explained_by = ("GS701", "GS303", "GS206", "GS102")

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        return (
            self._overflow(profile, limits)
            or self._overflowed(profile, limits)
            or self._underflow(profile, limits)
        )

    def _overflow(self, profile: Profile, limits: Limits) -> Finding | None:
        shares = {
            site: max(_finite(site.forward_peak), default=0.0) / _largest(site)
            for site in profile.sites
            if _largest(site) < _WIDE
        }
        faulty = [site for site, share in shares.items() if share > limits.warning_peak]
        if not faulty:
            return None
        worst = max(faulty, key=lambda site: shares[site])
        share = shares[worst]
        severe = share > limits.error_peak
        bound = limits.error_peak if severe else limits.warning_peak
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site in faulty],
            f"The largest output of {worst.name}, {share * _largest(worst):.3g}, is {share:.0%} of "
            f"the largest number of {worst.dtype} (limit {bound:.0%}).",
            {
                "largest output over the type's largest number": Measure(
                    share, bound, profile.source
                )
            },
            since=min(
                first_faulty(
                    peak > limits.warning_peak * _largest(site) for peak in site.forward_peak
                )
                for site in faulty
            ),
        )

    def _overflowed(self, profile: Profile, limits: Limits) -> Finding | None:
        """Of what is infinite already, whether squares of what came before it are, too."""
        in_order = sorted(profile.sites, key=lambda site: site.index)
        first = next((site for site in in_order if any(site.forward_nonfinite)), None)
        if (
            first is None
            or _largest(first) >= _WIDE
            or any(p.nonfinite for p in profile.parameters)
        ):
            return None
        step = first_faulty(count > 0 for count in first.forward_nonfinite)
        peaks = [
            (peak, site.name)
            for site in in_order
            if site.index <= first.index and _largest(site) < _WIDE
            for peak in _finite(site.forward_peak[step : step + 1])
        ]
        peak, name = max(peaks, default=(0.0, ""))
        squared = peak**2 / _largest(first)
        if not squared > limits.squared:
            return None
        return self.finding(
            Severity.ERROR,
            [first.name],
            f"At {first.name} numbers are beyond the largest one of {first.dtype}; at {name} they "
            f"reach {peak:.3g}, whose square is {squared:.2g} times that number (limit "
            f"{limits.squared:g}).",
            {
                "square of the largest output over the type's largest number": Measure(
                    squared, limits.squared, profile.source
                )
            },
            since=step,
        )

    def _underflow(self, profile: Profile, limits: Limits) -> Finding | None:
        shares = _lost(profile, limits.warning_subnormal)
        faulty = [
            site
            for site, series in shares.items()
            if in_most_steps(share > limits.warning_subnormal for share in _finite(series))
        ]
        if not faulty:
            return None
        typical = {site: statistics.median(_finite(shares[site])) for site in faulty}
        worst = max(faulty, key=lambda site: typical[site])
        share = typical[worst]
        severe = share > limits.error_subnormal
        bound = limits.error_subnormal if severe else limits.warning_subnormal
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site in faulty],
            f"{share:.0%} of the gradient at {worst.name} is too small for {worst.dtype} (limit "
            f"{bound:.0%}); {len(faulty)} of {len(shares)} sites need a scaled loss or bfloat16.",
            {"gradient elements too small, worst site": Measure(share, bound, profile.source)},
            since=min(
                first_faulty(share > limits.warning_subnormal for share in shares[site])
                for site in faulty
            ),
        )

    def bad(self) -> Subject:
        return random_subject(
            "eight layers in float16 without loss scaling",
            lambda: _Half(perceptron(nn.ReLU, layers=8)),
        )

    def good(self) -> Subject:
        return random_subject(
            "the same with He weights, through which gradients stay large enough",
            lambda: _Half(
                perceptron(
                    nn.ReLU,
                    layers=8,
                    initialise=lambda layer: nn.init.kaiming_normal_(layer.weight),
                )
            ),
        )


class _Half(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.half()).float()  # type: ignore[no-any-return]


def _largest(site: SiteProfile) -> float:
    return float(torch.finfo(getattr(torch, site.dtype)).max)


def _finite(series: Iterable[float]) -> list[float]:
    return [value for value in series if math.isfinite(value)]


def _lost(profile: Profile, warning: float) -> dict[SiteProfile, list[float]]:
    """Per site whose gradients are in a narrow type and per step, the share of them that is lost.

    A gradient of zeros is lost where that of the site nearest to it on the side of the loss was
    about to be; anything else may be the reason elsewhere (dead units, gates that start at zero).
    """
    lost: dict[SiteProfile, list[float]] = {}
    fading = [loss != 0 for loss in profile.losses]
    for site in sorted(profile.sites, key=lambda site: -site.index):
        if site.backward_subnormal:
            series = zip(site.backward_rms, site.backward_subnormal, fading, strict=True)
            lost[site] = [float(before) if rms == 0 else share for rms, share, before in series]
            fading = [share > warning for share in lost[site]]
    return dict(reversed(lost.items()))
