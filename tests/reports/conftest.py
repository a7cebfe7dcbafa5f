"""Reports built by hand: a repaired sigmoid stack, a healthy one, a hostile, a huge."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gradscope.records import (
    SCHEMA_VERSION,
    Bias,
    Change,
    Finding,
    Invariant,
    Measure,
    ParameterBias,
    ParameterProfile,
    Plan,
    Prescription,
    Profile,
    Refusal,
    Report,
    Role,
    Severity,
    SiteProfile,
    Skipped,
    Source,
    Status,
    Target,
    Tool,
    Trial,
    Verdict,
)

LAYERS = 10
STEPS = 8
SEEDS = (0, 1, 2, 3, 4)
HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "evil\u202egnp.exe",
    "[bold red]markup[/]",
    "{{ 7 * 7 }}",
    "long." * 60,
)
ENVIRONMENT = {"python": "3.11.9", "torch": "2.9.0+cpu", "device": "cpu", "platform": "Linux"}


def site(
    name: str,
    index: int,
    *,
    role: Role = Role.ACTIVATION,
    operator: str = "Sigmoid",
    forward: float = 0.5,
    variation: float = 0.5,
    backward: float = 0.1,
    dead: float | None = None,
    saturated: float | None = None,
    is_output: bool = False,
    width: int = 64,
) -> SiteProfile:
    return SiteProfile(
        name=name,
        role=role,
        operator=operator,
        index=index,
        shape=(64, width),
        unit_axis=1,
        is_output=is_output,
        forward_rms=(forward,) * STEPS,
        variation=(variation,) * STEPS,
        correlation=(1.0 - variation,) * STEPS,
        backward_rms=(backward,) * STEPS,
        forward_nonfinite=(0,) * STEPS,
        backward_nonfinite=(0,) * STEPS,
        observations=64 * STEPS,
        dead=dead,
        always_positive=None if dead is None else 0.0,
        saturated=saturated,
    )


def profile(sites: tuple[SiteProfile, ...], losses: tuple[float, ...] = (2.31,) * STEPS) -> Profile:
    return Profile(
        source=Source.MEASURED,
        batch_size=64,
        losses=losses,
        input_variation=(1.0,) * STEPS,
        sites=sites,
        parameters=(
            ParameterProfile("0.weight", (64, 784), True, True, 6.4, 0, (1e-9,) * STEPS, ()),
            ParameterProfile("0.bias", (64,), True, True, 0.0, 0, (None,) * STEPS, ()),
        ),
        optimizer="SGD",
        epsilon=None,
        seed=0,
    )


def stack(decay: float, collapse: float, *, saturated: float = 0.0) -> tuple[SiteProfile, ...]:
    """Linear and Sigmoid in turn; signals shrink by a factor per layer, away from their ends."""
    sites = []
    for layer in range(LAYERS):
        common: dict[str, Any] = {
            "forward": 0.5,
            "variation": 0.6 * collapse**layer,
            "backward": 0.02 * decay ** (LAYERS - 1 - layer),
        }
        sites.append(site(f"{2 * layer}", 2 * layer, role=Role.LAYER, operator="Linear", **common))
        sites.append(
            site(f"{2 * layer + 1}", 2 * layer + 1, saturated=saturated * layer / 9, **common)
        )
    sites.append(
        site(
            f"{2 * LAYERS}",
            2 * LAYERS,
            role=Role.LAYER,
            operator="Linear",
            forward=0.9,
            variation=0.6 * collapse**LAYERS,
            backward=0.3,
            is_output=True,
            width=10,
        )
    )
    return tuple(sites)


def trial(arm: str, seed: int, metric: float, *, matched: bool, steps: int = 300) -> Trial:
    start, end = 2.31, 2.30 if metric < 0.2 else 2.31 * (1 - metric)
    curve = tuple(
        (step, end + (start - end) * math.exp(-4.0 * step / steps) + 0.004 * seed)
        for step in range(0, steps + 1, steps // 20)
    )
    return Trial(arm, seed, steps, metric, curve, matched)


def demo_report() -> Report:
    """What ``gradscope demo`` is about: a sigmoid stack that does not learn, repaired."""
    findings = (
        Finding(
            "GS204",
            "forward-collapse",
            Severity.ERROR,
            tuple(str(2 * layer + 1) for layer in range(5, LAYERS)),
            "From site 11 on all samples look the same: variation across samples is 1.03e-05 of "
            "the input's at the last activation, under the limit of 0.001",
            {"variation_ratio": Measure(1.03e-5, 1e-3, Source.MEASURED)},
            remedies=("norm-insertion", "re-initialise"),
        ),
        Finding(
            "GS101",
            "vanishing-gradient",
            Severity.ERROR,
            ("1", "3", "5"),
            "The backward signal at the first site is 2.61e-09 of that at the last, under the "
            "limit of 1e-05, in 8 of 8 steps",
            {
                "attenuation": Measure(2.61e-9, 1e-5, Source.MEASURED),
                "slope_per_site": Measure(-0.92, None, Source.MEASURED),
            },
            cause="GS204",
            remedies=("norm-insertion", "artificial-derivative"),
        ),
        Finding(
            "GS501",
            "loss-plateau",
            Severity.WARNING,
            (),
            "The loss moved by 0.02 % over 8 steps",
            {"relative_change": Measure(2e-4, 1e-3, Source.MEASURED)},
            remedies=("learning-rate",),
        ),
    )
    winner = "norm-insertion"
    results = {
        "do-nothing": (0.103, 0.098, 0.101, 0.113, 0.1),
        "do-nothing, learning rate x3": (0.104, 0.099, 0.1, 0.112, 0.1),
        "do-nothing, learning rate x10": (0.1, 0.11, 0.098, 0.103, math.nan),
        winner: (0.812, 0.807, 0.821, 0.799, 0.816),
    }
    trials = [
        trial(arm, 100, metric, matched=False, steps=60)
        for arm, metric in (
            ("do-nothing", 0.1),
            ("do-nothing, learning rate x3", 0.11),
            ("do-nothing, learning rate x10", 0.1),
            ("artificial-derivative", 0.1),
            (winner, 0.45),
        )
    ]
    trials += [
        trial(arm, seed, metric, matched=True)
        for arm, metrics in results.items()
        for seed, metric in zip(SEEDS, metrics, strict=True)
    ]
    plan = Plan(
        prescriptions=(
            Prescription(
                winner,
                (Change.STRUCTURE, Change.PARAMETERS),
                tuple(str(2 * layer) for layer in range(LAYERS)),
                {"kind": "BatchNorm1d", "momentum": 0.1, "affine": True},
                "GS204",
                "Normalising before each sigmoid keeps the samples apart, which no change of the "
                "backward pass can do",
            ),
        ),
        alternatives=(
            (
                Prescription(
                    "artificial-derivative",
                    (Change.BACKWARD,),
                    ("1", "3"),
                    {"beta": 0.05},
                    "GS101",
                    "It raises the backward signal",
                ),
            ),
        ),
        refusals=(
            Refusal("skip-connection", "input and output differ in shape, 784 against 64", ("0",)),
        ),
        seed=0,
    )
    verdict = Verdict(
        Status.FIXED,
        "accuracy is higher on every matched seed and the finding is gone",
        metric="accuracy",
        higher_is_better=True,
        before=0.103,
        after=0.811,
        interval=(0.698, 0.718),
        p_value=3.2e-8,
        effect_size=88.2,
        seeds=SEEDS,
        baselines={
            "do-nothing, learning rate x3": 0.103,
            "do-nothing, learning rate x10": 0.10275,
        },
        invariants=(
            Invariant("undo restores the model", True, "all 22 tensors are bit-equal after undo"),
            Invariant("doing nothing is repeatable", True),
        ),
        bias=Bias(
            ParameterBias("(all)", 0.871, 3.2, False, False),
            (
                ParameterBias("0.weight", 0.334, 51.0, False, False),
                ParameterBias("2.weight", 0.92, 2.1, False, False),
                ParameterBias("2.bias", math.nan, math.inf, True, False),
            ),
            8,
        ),
        trials=tuple(trials),
        failed_before=1.0,
        failed_after=0.0,
        remaining=("GS501",),
        profile=profile(stack(0.82, 0.97)),
    )
    return Report(
        SCHEMA_VERSION,
        Tool("gradscope", "0.1.0"),
        Target("examples/deep_sigmoid.py", "subject file", 88_000),
        ENVIRONMENT,
        profile(stack(0.12, 0.3, saturated=0.4)),
        findings,
        plan,
        verdict,
        (Skipped("GS301 update-ratio", "no optimizer was given"),),
        (),
    )


def healthy_report() -> Report:
    """A scan of a model that trains well."""
    sites = (
        site("0.relu", 0, operator="ReLU", dead=0.0),
        site("1.relu", 1, operator="ReLU", dead=0.0, backward=0.09),
        site("2", 2, role=Role.LAYER, operator="Linear", is_output=True, width=10),
    )
    return Report(
        SCHEMA_VERSION,
        Tool("gradscope", "0.1.0"),
        Target("mlp.py", "subject file", 55_050),
        ENVIRONMENT,
        profile(sites),
        (),
        None,
        None,
        (),
        (),
    )


def hostile_report() -> Report:
    """Names that attack the reader, and numbers that are none."""
    sites = tuple(
        site(name, index, forward=math.inf, variation=math.nan, backward=math.nan, dead=1.0)
        for index, name in enumerate(HOSTILE_NAMES)
    )
    finding = Finding(
        "GS401",
        "non-finite",
        Severity.ERROR,
        HOSTILE_NAMES,
        f"NaN first appears at {HOSTILE_NAMES[0]} and then at {HOSTILE_NAMES[1]}",
        {"share": Measure(math.nan, 0.0, Source.MEASURED)},
        cause="GS401",
    )
    prescription = Prescription(
        "precision", (Change.TRAINING,), HOSTILE_NAMES, {"dtype": "</code>"}, "GS401", "</style>"
    )
    trials = tuple(
        trial(arm, seed, math.nan, matched=True)
        for arm in ("do-nothing", HOSTILE_NAMES[0])
        for seed in SEEDS
    )
    return Report(
        SCHEMA_VERSION,
        Tool("gradscope", "0.1.0"),
        Target(HOSTILE_NAMES[0] + HOSTILE_NAMES[1], "checkpoint", 0),
        {"python": '"><img src=x onerror=alert(1)>'},
        profile(sites, (math.nan,) * STEPS),
        (finding,),
        Plan((prescription,)),
        Verdict(
            Status.WORSE_UNDONE,
            "it diverged",
            metric="loss",
            higher_is_better=False,
            before=math.nan,
            after=math.inf,
            interval=(math.nan, math.nan),
            p_value=math.nan,
            seeds=SEEDS,
            trials=trials,
            profile=profile(sites),
        ),
        (Skipped(HOSTILE_NAMES[1], "a\nb\r\x07c"),),
        (Refusal("skip-connection", HOSTILE_NAMES[2], HOSTILE_NAMES),),
    )


def huge_report(sites: int = 2_000) -> Report:
    """A scan of a model with very many sites."""
    deep = tuple(
        site(
            f"encoder.layers.{index}.feed_forward.activation",
            index,
            operator="ReLU",
            dead=0.3 if index % 7 == 0 else 0.0,
            backward=0.0 if index < 100 else 10.0 ** (-12 * (1 - index / sites)),
        )
        for index in range(sites)
    )
    finding = Finding(
        "GS101",
        "vanishing-gradient",
        Severity.ERROR,
        tuple(each.name for each in deep[:100]),
        "The backward signal is 0 at the first 100 sites",
        {"attenuation": Measure(0.0, 1e-5, Source.MEASURED)},
    )
    return Report(
        SCHEMA_VERSION,
        Tool("gradscope", "0.1.0"),
        Target("deep.py", "subject file", 12_000_000),
        ENVIRONMENT,
        profile(deep),
        (finding,),
        None,
        None,
        (),
        (),
    )


@pytest.fixture
def demo() -> Report:
    return demo_report()


@pytest.fixture
def healthy() -> Report:
    return healthy_report()


@pytest.fixture
def hostile() -> Report:
    return hostile_report()


@pytest.fixture
def huge() -> Report:
    return huge_report()
