"""Units over all samples and positions, as several rules count them."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.records import Role, SiteProfile, Skipped

__all__ = ["seen_often_enough"]


def seen_often_enough(
    code: str, candidates: Sequence[SiteProfile], observations: float
) -> list[SiteProfile] | Skipped:
    """The sites whose units were seen on enough samples and positions to call them anything.

    Gates are left out: they serve a larger activation, which is what is judged. So are sites whose
    output was not finite at some step: NaN is on no side of zero.

    Returns:
        The sites, or why the rule of that code has to be skipped: there are some, and none was.
    """
    candidates = [
        site
        for site in candidates
        if site.role is not Role.GATE and not any(site.forward_nonfinite)
    ]
    seen = [site for site in candidates if site.observations >= observations]
    if seen or not candidates:
        return seen
    most = max(site.observations for site in candidates)
    return Skipped(
        code,
        f"units were seen on {most} samples and positions, {observations:g} are needed; "
        "give more batches",
    )
