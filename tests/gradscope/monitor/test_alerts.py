from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gradscope.config import Settings
from gradscope.diagnose import diagnose
from gradscope.errors import ConfigError
from gradscope.monitor.alerts import Alerts
from gradscope.monitor.live_profile import WINDOW, LiveProfile
from gradscope.monitor.sampled import Sampled
from gradscope.records import Finding, Severity
from gradscope.rules.no_gradient import NoGradient
from gradscope.training import Alert, Layout, RunInfo, WatchedParameter, WatchedSite

SGD = RunInfo("Sequential", 100, ("SGD",))

LAYOUT = Layout(
    tuple(
        WatchedSite(
            name, "activation", "ReLU", (32, 16), 1, depth=depth, dead_zone=True, bounded=False
        )
        for depth, name in enumerate(("1", "3", "5"))
    ),
    tuple(WatchedParameter(name, (16, 16)) for name in ("0.weight", "2.weight", "4.weight")),
)


def sample(
    step: int, layout: Layout = LAYOUT, losses: Sequence[float] = (), **values: float
) -> Sampled:
    """A healthy sample; ``values`` such as ``dead_3`` or ``loss`` are put in instead."""
    told = {
        "loss": 1.0,
        "gradient_norm": 1.0,
        "used_norm": 1.0,
        "learning_rate": 0.1,
        "seconds": 0.01,
    }
    told |= {name: value for name, value in values.items() if name in told}
    row = list(told.values())
    for site in layout.sites:
        measures = {
            "forward": 1.0,
            "backward": 1.0,
            "dead": 0.0,
            "always": 0.0,
            "saturated": math.nan,
        }
        row += [values.get(f"{what}_{site.name}", value) for what, value in measures.items()]
    for parameter in layout.parameters:
        measures = {"gradient": 0.5, "weight": 4.0, "update": 0.01}
        name = parameter.name.partition(".")[0]
        row += [values.get(f"{what}_{name}", value) for what, value in measures.items()]
    given = [*losses, told["loss"]] if losses else [told["loss"]]
    return Sampled(step, np.array(row, np.float32), layout, np.array(given, np.float32))


def stream(alerts: Alerts, samples: Iterable[Sampled]) -> list[tuple[int, Alert]]:
    """What changed, and at which step."""
    return [(each.step, alert) for each in samples for alert in alerts.see(each)]


def changes(found: Iterable[tuple[int, Alert]]) -> list[tuple[int, str, bool]]:
    return [(step, alert.code, alert.closed is None) for step, alert in found]


# --- Hysteresis -------------------------------------------------------------------------------


def test_a_healthy_stream_is_silent() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step) for step in range(100)))

    assert found == []
    assert alerts.all == alerts.standing == ()


def test_an_alert_opens_when_found_twice_in_a_row() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, dead_3=0.9) for step in range(40)))

    assert changes(found) == [(11, "GS201", True)]
    (alert,) = alerts.standing
    assert alert.sites == ("3",)
    assert alert.severity is Severity.ERROR
    assert alert.values["dead less always positive units, worst site"] == pytest.approx(0.9)
    assert alert.limits["dead less always positive units, worst site"] == pytest.approx(0.8)
    assert "artificial-derivative" in alert.remedies


def test_what_shows_once_opens_nothing() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, dead_3=0.9 * (step == 7)) for step in range(60)))

    assert found == []


def test_an_alert_closes_when_it_is_not_found_any_more() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, dead_3=0.9 * (step < 20)) for step in range(60)))

    assert changes(found) == [(11, "GS201", True), (31, "GS201", False)]
    assert alerts.standing == ()
    assert [alert.closed for alert in alerts.all] == [31]


def test_what_comes_and_goes_at_a_limit_does_not_flap() -> None:
    alerts = Alerts(SGD)

    found = stream(
        alerts, (sample(step, dead_3=0.9 if step // 4 % 2 else 0.1) for step in range(400))
    )

    assert found == []


def test_an_alert_that_stands_survives_a_judgement_without_it() -> None:
    alerts = Alerts(SGD)

    found = stream(
        alerts,
        (
            sample(step, dead_3=0.1 if step // 4 % 3 == 2 and step > 12 else 0.9)
            for step in range(200)
        ),
    )

    assert changes(found) == [(11, "GS201", True)]


def test_what_opens_again_soon_is_the_same_alert() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, dead_3=0.9 * (not 20 <= step < 40)) for step in range(80)))

    assert changes(found) == [(11, "GS201", True), (31, "GS201", False), (47, "GS201", True)]
    assert [alert.step for alert in alerts.all] == [11]


def test_what_opens_again_much_later_is_another_alert() -> None:
    alerts = Alerts(SGD)

    stream(alerts, (sample(step, dead_3=0.9 * (not 20 <= step < 120)) for step in range(160)))

    assert [(alert.step, alert.closed) for alert in alerts.all] == [(11, 31), (127, None)]


def test_an_alert_that_gets_worse_is_told_of_again() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, dead_3=0.6 if step < 30 else 0.9) for step in range(60)))

    assert [(step, alert.severity) for step, alert in found] == [
        (11, Severity.WARNING),
        (31, Severity.ERROR),
    ]
    assert [alert.step for alert in alerts.all] == [11]


def test_memory_does_not_grow() -> None:
    live = LiveProfile(SGD)
    for step in range(10 * WINDOW):
        live.add(sample(step, losses=[1.0] * 99))

    profile = live.profile()

    assert len(profile.sampled) == len(profile.losses) == WINDOW
    assert len(profile.first_losses) == 50
    assert len(profile.recent_losses) == 200
    assert profile.samples == 10 * WINDOW


# --- Causes, settings, layouts ----------------------------------------------------------------


def test_a_fault_is_explained_by_one_that_stood_before() -> None:
    alerts = Alerts(SGD)
    samples = (
        sample(step, dead_3=0.9, backward_1=1.0 if step < 40 else 1e-6) for step in range(120)
    )

    stream(alerts, samples)

    assert [(alert.code, alert.cause) for alert in alerts.all] == [
        ("GS201", None),
        ("GS101", "GS201"),
    ]


def test_limits_of_the_settings_count() -> None:
    settings = Settings(limits={"dead-relu": {"warning": 0.95}})
    alerts = Alerts(SGD, settings)

    found = stream(alerts, (sample(step, dead_3=0.9) for step in range(40)))

    assert found == []


def test_ignored_rules_and_sites_count() -> None:
    for settings in (Settings(ignore=("GS201",)), Settings(ignored_sites={"3": ("GS201",)})):
        alerts = Alerts(SGD, settings)
        assert stream(alerts, (sample(step, dead_3=0.9) for step in range(40))) == []


def test_settings_that_name_no_rule_are_refused() -> None:
    with pytest.raises(ConfigError, match="ded-relu"):
        Alerts(SGD, Settings(limits={"ded-relu": {"warning": 0.95}}))


def test_a_new_layout_takes_over_what_has_the_same_name() -> None:
    wider = replace(
        LAYOUT,
        sites=(replace(LAYOUT.sites[0], name="0"), *LAYOUT.sites),
        parameters=(*LAYOUT.parameters, WatchedParameter("6.weight", (16, 16))),
    )
    live = LiveProfile(SGD)
    for step in range(4):
        live.add(sample(step, backward_3=0.25))
    live.add(sample(4, wider, backward_3=0.5))

    profile = live.profile()

    assert profile.site("3").backward_rms == (0.25, 0.25, 0.25, 0.25, 0.5)
    assert profile.site("0").backward_rms[-1] == 1.0
    assert all(map(math.isnan, profile.site("0").backward_rms[:-1]))
    assert profile.parameters[3].gradient_norm == (None, None, None, None, 0.5)


def test_only_rules_that_can_tell_are_asked() -> None:
    live = LiveProfile(SGD)
    for step in range(20):
        live.add(sample(step, dead_3=0.9))

    findings = diagnose(live.profile())

    assert findings.codes == {"GS201"}
    assert findings.skipped == ()


# --- Numbers that are not finite --------------------------------------------------------------

NAN = math.nan
BROKEN = dict.fromkeys(("loss", "gradient_norm", "used_norm"), NAN)
ALL_NAN = BROKEN | {f"{what}_{at}": NAN for what in ("forward", "backward") for at in (1, 3, 5)}
ALL_NAN |= {f"{what}_{at}": NAN for what in ("gradient", "weight", "update") for at in (0, 2, 4)}


def test_nan_is_told_of_at_once_and_where_it_came_up() -> None:
    alerts = Alerts(SGD)
    first = BROKEN | {"forward_3": NAN, "forward_5": NAN}
    samples = [*map(sample, range(20)), sample(120, **first), sample(220, **ALL_NAN)]

    found = stream(alerts, samples)

    assert changes(found) == [(220, "GS401", True)]
    assert found[0][1].sites == ("3", "5")
    assert "At step 120 the outputs" in found[0][1].message


def test_a_gradient_that_made_the_weights_nan_is_named() -> None:
    alerts = Alerts(SGD)
    first = {"gradient_norm": NAN, "used_norm": NAN, "backward_1": NAN, "backward_3": math.inf}
    samples = [sample(0), sample(1, **first), sample(2, **ALL_NAN), sample(3, **ALL_NAN)]

    found = stream(alerts, samples)

    assert changes(found) == [(3, "GS401", True)]
    assert found[0][1].sites == ("3", "1")
    assert "At step 1 the gradients" in found[0][1].message


@pytest.mark.parametrize(
    "skipped",
    [
        pytest.param({"gradient_norm": math.inf, "used_norm": math.inf}, id="by a GradScaler"),
        pytest.param(ALL_NAN, id="by the loop"),
    ],
)
def test_a_step_that_was_left_out_is_no_fault(skipped: dict[str, float]) -> None:
    alerts = Alerts(SGD)
    samples = (sample(step, **(skipped if step % 10 == 5 else {})) for step in range(60))

    assert stream(alerts, samples) == []


def test_what_another_optimizer_did_not_step_is_no_nan() -> None:
    alerts = Alerts(SGD)
    unmeasured = {f"{what}_0": NAN for what in ("gradient", "weight", "update")} | {
        "forward_1": NAN
    }
    samples = (sample(step, **(unmeasured if step % 6 else {})) for step in range(80))

    assert stream(alerts, samples) == []


# --- Parameters and gradients -----------------------------------------------------------------


def test_parameters_that_never_had_a_gradient_are_named() -> None:
    live = LiveProfile(SGD)
    for step in range(24):
        live.add(sample(step, gradient_0=NAN, update_0=0.0))
    profile = live.profile()
    ran = replace(
        profile, parameters=tuple(replace(each, reached=True) for each in profile.parameters)
    )

    found = NoGradient().check_training(ran, NoGradient.limits)

    assert isinstance(found, Finding)
    assert found.sites == ("0.weight",)
    assert found.severity is Severity.ERROR
    assert NoGradient().check_training(profile, NoGradient.limits) is None, "it may not have run"


def test_a_parameter_that_no_update_moves_is_named() -> None:
    alerts = Alerts(SGD)

    found = stream(alerts, (sample(step, update_2=0.0) for step in range(40)))

    assert [(alert.code, alert.sites) for _, alert in found] == [("GS304", ("2.weight",))]


def test_a_rate_of_zero_moves_nothing_and_is_no_fault() -> None:
    alerts = Alerts(SGD)
    still = {"update_0": 0.0, "update_2": 0.0, "update_4": 0.0, "learning_rate": 0.0}

    assert stream(alerts, (sample(step, **still) for step in range(40))) == []


def test_a_spike_counts_only_if_its_loss_is_beyond_all_before() -> None:
    for loss, codes in ((5.0, []), (500.0, ["GS104"])):
        alerts = Alerts(SGD)
        spike = {"used_norm": 100.0, "loss": loss}
        samples = (sample(step, **(spike if step == 60 else {})) for step in range(72))
        assert [alert.code for _, alert in stream(alerts, samples)] == codes


def test_parameters_that_had_a_gradient_once_are_not() -> None:
    live = LiveProfile(SGD)
    for step in range(40):
        live.add(sample(step, gradient_0=0.5 if step == 3 else NAN))

    assert live.profile().idle == ()
