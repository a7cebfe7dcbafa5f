"""GS401: where NaN or infinity came up first, and when."""

from __future__ import annotations

import math

from gradscope.records import Finding, ParameterProfile, SiteProfile
from gradscope.rules.non_finite import NonFinite
from tests.gradscope.rules.making import layer, parameter, profile, site

RULE = NonFinite()

FROM_3 = (0, 0, 0, *(5,) * 5)
FROM_2 = (0, 0, *(7,) * 6)


def check(
    *sites: SiteProfile,
    parameters: tuple[ParameterProfile, ...] = (),
    losses: tuple[float, ...] = (1.0,) * 8,
) -> Finding | None:
    found = RULE.check(profile(*sites, parameters=parameters, losses=losses), RULE.limits)
    assert found is None or isinstance(found, Finding)
    return found


def test_the_first_step_decides_before_the_first_place() -> None:
    finding = check(
        layer("a", 0, forward_nonfinite=FROM_3),
        site("b", 1, backward_nonfinite=FROM_2),
        losses=(*(1.0,) * 3, *(math.nan,) * 5),
    )
    assert finding is not None
    assert (finding.sites, finding.since) == (("b",), 2)
    assert finding.message == "At step 2 the gradients hold NaN or infinity, first at b."


def test_within_a_step_outputs_come_before_the_loss_and_gradients() -> None:
    finding = check(
        layer("a", 0, backward_nonfinite=FROM_3),
        site("b", 1, forward_nonfinite=FROM_3),
        layer("c", 2, forward_nonfinite=FROM_3),
        losses=(*(1.0,) * 3, *(math.inf,) * 5),
    )
    assert finding is not None
    assert (finding.sites, finding.since) == (("b", "c"), 3)


def test_weights_come_first_of_all() -> None:
    finding = check(site("a", 0, forward_nonfinite=(1,) * 8), parameters=(parameter(nonfinite=3),))
    assert finding is not None
    assert (finding.sites, finding.since) == (("0.weight",), 0)


def test_a_loss_of_finite_outputs_is_looked_for_at_the_output() -> None:
    out = layer("out", 1, is_output=True)
    finding = check(layer("a", 0), out, losses=(*(1.0,) * 7, math.inf))
    assert finding is not None
    assert (finding.sites, finding.since) == (("out",), 7)
    assert finding.message == "At step 7 the loss is NaN or infinity."


def test_the_gradient_of_a_parameter_that_no_site_shows() -> None:
    finding = check(
        site("a", 0), parameters=(parameter(gradient_norm=(0.1, math.nan, *(None,) * 6)),)
    )
    assert finding is not None
    assert (finding.sites, finding.since) == (("0.weight",), 1)


def test_no_finding() -> None:
    assert check(parameters=(parameter(gradient_norm=(None,) * 8),)) is None
