"""Prints for each limit of each rule at which value of it the verdict on each subject flips.

python -m tests.zoo.limits [CODE...] [--half calibration|held-out|all] [--jobs 2] [--reuse]

Everything else as it is, a limit is moved up and down until the rule says something else (a limit
of zero stays). *gap* is the factor between the healthy subject and the subject with that fault
which lie nearest to each other: above 1 some limit tells all of them apart.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradscope import registry
from gradscope.records import Finding, Profile, Severity
from gradscope.rules import Rule, describe_limits
from tests.zoo.examining import examine_all
from tests.zoo.score import HALVES, chosen
from tests.zoo.subjects import cases

__all__ = ["Flip", "flip"]

DECADES = 9
"""How far a limit is moved up and down; what flips and flips back within one is not seen."""

HALVINGS = 12
"""Of the last decade: they find the value to within 0.1 %."""

Verdict = Severity | None


@dataclass(frozen=True)
class Flip:
    """What moving a limit does to the verdict of a rule on one subject.

    Attributes:
        value: of the limit, the nearest to the one in force at which the verdict flips; None where
            it does not within nine decades.
        fires_above: whether the rule finds more with the limit above that value than below it.
        verdict: with the limit in force.
    """

    value: float | None
    fires_above: bool
    verdict: Verdict


def flip(rule: Rule[Any], profile: Profile, name: str) -> Flip:
    """Moves the limit called ``name``."""
    current = float(getattr(rule.limits, name))

    def verdict(decades: float) -> Verdict:
        value = current * 10**decades
        found = rule.check(profile, replace(rule.limits, **{name: value}))
        return found.severity if isinstance(found, Finding) else None

    def flips_at(inside: float, outside: float) -> float:
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            if verdict(middle) is now:
                inside = middle
            else:
                outside = middle
        return outside

    now = verdict(0)
    for decade in range(1, DECADES + 1):
        places = [
            flips_at(sign * (decade - 1), sign * decade)
            for sign in (-1, 1)
            if verdict(sign * decade) is not now
        ]
        if places:
            nearest = min(places, key=abs)
            more = _weight(verdict(nearest)) > _weight(now)
            return Flip(current * 10**nearest, more == (nearest > 0), now)
    return Flip(None, False, now)


def _weight(verdict: Verdict) -> int:
    return 0 if verdict is None else len(Severity) - verdict.rank


# --- Printing ---------------------------------------------------------------------------------


def print_limit(rule: Rule[Any], name: str, profiles: dict[str, Profile]) -> None:
    labels = {case: cases()[case] for case in profiles}
    healthy, faulty = (
        {case: flip(rule, profiles[case], name) for case in chosen}
        for chosen in (
            [case for case, label in labels.items() if label.healthy],
            [case for case, label in labels.items() if rule.code in label.must],
        )
    )
    print_group("healthy", healthy)
    print_group(rule.code, faulty)
    flips = [*healthy.values(), *faulty.values()]
    ups = [seen.fires_above for seen in flips if seen.value is not None]
    if not ups:
        return
    fires_above = sum(ups) * 2 >= len(ups)
    good, bad = values(healthy, fires_above), values(faulty, fires_above)
    if not good or not bad:
        return
    if fires_above:
        innocent, guilty = min(good), max(bad)
        gap = innocent[0] / guilty[0]
    else:
        innocent, guilty = max(good), min(bad)
        gap = guilty[0] / innocent[0]
    print(
        f"    fires with the limit {'above' if fires_above else 'below'} these; "
        f"nearest: {innocent[1]} {innocent[0]:.3g}, {guilty[1]} {guilty[0]:.3g}; gap {gap:.3g}"
    )


def values(group: dict[str, Flip], fires_above: bool) -> list[tuple[float, str]]:
    return [
        (seen.value, case)
        for case, seen in group.items()
        if seen.value is not None and seen.fires_above == fires_above
    ]


def print_group(title: str, group: dict[str, Flip]) -> None:
    numbers = sorted(seen.value for seen in group.values() if seen.value is not None)
    text = "-"
    if numbers:
        text = " / ".join(
            f"{number:.3g}" for number in (numbers[0], statistics.median(numbers), numbers[-1])
        )
    fixed = [seen for seen in group.values() if seen.value is None]
    never = sum(seen.verdict is None for seen in fixed)
    print(
        f"    {title:8} min / median / max {text:32} of {len(numbers)}; "
        f"{never} never fire, {len(fixed) - never} always"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codes", nargs="*", metavar="CODE", help="rules; all by default")
    parser.add_argument("--half", choices=HALVES, default="calibration")
    parser.add_argument("--only", default="*", help="a glob of names of cases")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reuse", action="store_true", help="profiles of an earlier run")
    options = parser.parse_args(arguments)
    rules = [registry.rules()[code] for code in sorted(registry.matching(options.codes or ["GS"]))]
    seen = examine_all(
        chosen(options.half, options.only),
        jobs=options.jobs,
        seed=options.seed,
        keep=True,
        reuse=options.reuse,
    )
    profiles = {entry.name: entry.profile for entry in seen}
    for rule in rules:
        for name, value, unit, _ in describe_limits(rule.limits):
            print(f"{rule.code} {rule.name}: {name} = {value:g} {unit}", flush=True)
            print_limit(rule, name, profiles)


if __name__ == "__main__":
    main()
