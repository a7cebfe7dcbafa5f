"""GS101 and GS102: the backward signal along the trunk, and what is no decay or growth of it."""

from __future__ import annotations

import math
from typing import Any

from gradscope.records import Finding, Severity, SiteProfile, Skipped
from gradscope.rules.exploding_gradient import ExplodingGradient
from gradscope.rules.signal import backward_sites
from gradscope.rules.vanishing_gradient import VanishingGradient
from tests.gradscope.rules.making import layer, parameter, profile, site

VANISHES, EXPLODES = VanishingGradient(), ExplodingGradient()


def signal(name: str, depth: int, *values: float, **changed: Any) -> SiteProfile:
    series = values * 8 if len(values) == 1 else values
    return site(name, depth, backward_rms=series, **changed)


def vanished(*sites: SiteProfile, **changed: Any) -> Finding | Skipped | None:
    return VANISHES.check(profile(*sites, **changed), VANISHES.limits)


def exploded(*sites: SiteProfile, **changed: Any) -> Finding | Skipped | None:
    return EXPLODES.check(profile(*sites, **changed), EXPLODES.limits)


def test_decay_over_depth() -> None:
    finding = vanished(signal("a", 1, 1e-7), signal("b", 2, 1e-4), signal("c", 3, 1e-1))
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.since) == (Severity.ERROR, 0)
    assert finding.sites == ("a",)


def test_beside_an_input_that_gets_its_gradient_it_is_no_decay() -> None:
    time = signal("time", 1, 1e-5)
    last = signal("last", 9, 1e-1)
    stem = layer("stem", 0, backward_rms=(1e-2,) * 8)
    assert isinstance(vanished(time, last), Finding)
    assert vanished(stem, time, last) is None


def test_the_uses_of_one_module_over_time_are_one_input() -> None:
    uses = [layer(f"in@{use}", 0, backward_rms=(1e-2,) * 8) for use in range(1, 4)]
    assert isinstance(vanished(*uses, signal("a", 1, 1e-6), signal("b", 9, 1e-1)), Finding)


def test_a_signal_of_exactly_zero_is_cut_and_has_not_decayed() -> None:
    assert vanished(signal("a", 1, 0.0), signal("b", 2, 0.1)) is None


def test_steps_that_tell_nothing() -> None:
    near = (1e-7, math.nan, 0.0, 1e-7, math.inf, 1e-7, 1e-7, 1e-7)
    finding = vanished(signal("a", 1, *near), signal("b", 2, 0.1))
    assert isinstance(finding, Finding)
    assert vanished(signal("a", 1, math.nan), signal("b", 2, 0.1)) is not None, "skipped"


def test_under_adam_the_scale_has_to_come_near_eps() -> None:
    sites = signal("a", 1, 1e-7), signal("b", 2, 0.1)
    small = parameter(gradient_norm=(1e-6,) * 8)
    assert vanished(*sites, optimizer="Adam", epsilon=1e-8) is None
    assert isinstance(
        vanished(*sites, optimizer="Adam", epsilon=1e-8, parameters=(small,)), Finding
    )


def test_growth_over_depth() -> None:
    finding = exploded(signal("a", 1, 1e4), signal("b", 2, 1.0))
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.WARNING
    assert exploded(signal("a", 1, 1e4), signal("b", 2, 1.0), epsilon=1e-8) is None
    worse = exploded(signal("a", 1, 1e5), signal("b", 2, 1.0))
    assert isinstance(worse, Finding)
    assert worse.severity is Severity.ERROR


def test_growth_that_starts_with_the_updates_is_theirs() -> None:
    assert exploded(signal("a", 1, 1.0, *(1e6,) * 7), signal("b", 2, 1.0)) is None
    later = exploded(signal("a", 1, math.nan, *(1e6,) * 7), signal("b", 2, 1.0))
    assert isinstance(later, Finding)
    assert later.since == 1


def test_of_parallel_branches_the_one_that_gets_most_counts() -> None:
    used, unused = (
        signal(name, 2, value, branch=True) for name, value in (("used", 0.1), ("unused", 1e-12))
    )
    router = signal("router", 1, 0.1, branch=True)
    assert [each.name for each in backward_sites(profile(router, unused, used))] == [
        "router",
        "used",
    ]
    assert exploded(router, unused, used) is None
