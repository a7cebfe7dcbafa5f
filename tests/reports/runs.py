"""Training runs as a monitor recorded them, and reports of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gradscope.history import ParameterHistory, RunEvent, SiteHistory, TrainingHistory
from gradscope.records import Profile, Report, Severity, Source
from gradscope.training import Alert


def alert(code: str, step: int, closed: int | None = None, **changes: Any) -> Alert:
    given: dict[str, Any] = {
        "name": "vanishing-gradient",
        "severity": Severity.ERROR,
        "sites": ("0.relu", "1.relu"),
        "message": "it vanishes",
        "values": {"attenuation": 1e-7},
        "cause": None,
    }
    return Alert(code=code, step=step, closed=closed, **given | changes)


def history(layers: int = 10, points: int = 60, **changes: Any) -> TrainingHistory:
    """The first layers' signal falls by and by, to zero at the first; their units die."""
    steps = tuple(range(99, points * 100, 100))
    done = [(at + 1) / points for at in range(points)]

    def site(layer: int) -> SiteHistory:
        depth = layer / max(1, layers - 1)
        backward = [0.1 * 10 ** (-7 * part * (1 - depth)) for part in done]
        if not layer:
            backward[-3:] = [0.0, 0.0, 0.0]
        return SiteHistory(
            f"{layer}.relu",
            "activation",
            "ReLU",
            2 * layer + 1,
            False,
            (0.5,) * points,
            tuple(float(f"{value:.4g}") for value in backward),
            tuple(float(f"{0.8 * part * (1 - depth):.4g}") for part in done),
        )

    loss = tuple(float(f"{2.3 * math.exp(-3 * part) + 0.1:.4g}") for part in done)
    norm = tuple(float(f"{2 - part:.4g}") for part in done)
    made = TrainingHistory(
        model="Net",
        command=("python", "train.py"),
        every=100,
        last_step=steps[-1],
        ended=None,
        dropped=0,
        seconds=0.02,
        steps=steps,
        loss=loss,
        loss_peak=tuple(2 * value for value in loss),
        sampled=steps,
        gradient_norm=norm,
        gradient_norm_peak=norm,
        used_norm=(1.0,) * points,
        learning_rate=(1e-3,) * points,
        sites=tuple(site(layer) for layer in range(layers)),
        parameters=(ParameterHistory("0.weight", (1e-3,) * points),),
        alerts=(
            alert("GS101", 3000),
            alert("GS104", 1000, 1500, name="gradient-spike", severity=Severity.WARNING, sites=()),
            alert("GS201", 2000, name="dead-relu", severity=Severity.WARNING),
        ),
        events=(RunEvent(500, "epoch", {"loss": 1.25}), RunEvent(700, "skipped", {})),
    )
    return replace(made, **changes)


def reported(report: Report, training: TrainingHistory) -> Report:
    profile = Profile(
        source=Source.MEASURED,
        batch_size=0,
        losses=(),
        input_variation=(),
        sites=(),
        parameters=(),
        optimizer="Adam",
        epsilon=1e-8,
        seed=0,
        training=training,
    )
    target = replace(report.target, name="run.gradscope", kind="training run")
    return replace(report, target=target, profile=profile, verdict=None, plan=None)
