"""The tables of the benchmark of cold evidence, out of what is kept of a run alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from gradscope import registry
from gradscope.examples.experiments.results import Run, Table

CODES = tuple(sorted(code for code, rule in registry.rules().items() if rule.reads_stored()))
"""Rules that read checkpoints."""

BUILT = ("GS301", "GS302", "GS303")
"""The truth is how a network was built, too: a run on trained weights hardly shows these."""

Entry = dict[str, Any]


def tables(run: Run) -> list[Table]:
    sets = {name: [each for each in run.results if each["set"] == name] for name in SETS}
    sets = {name: entries for name, entries in sets.items() if entries}
    return [
        _dead(sets),
        Table(
            "Findings: how often they are right",
            ("rule", *(f"{what}, {name}" for name in sets for what in ("found", "false"))),
            [_verdicts(code, sets) for code in CODES],
            "Found: of the networks in which a run on data finds the same, or, of "
            f"{', '.join(BUILT)}, that were built so. False: on how many of the healthy ones, "
            "and after the plus on how many that have another fault.",
        ),
        *(
            Table(
                f"The {name} networks",
                ("network", *FOUND, *MEASURED),
                [(each["network"], *_found(each), *_measured(each)) for each in sets[name]],
                NOTE,
                names=3,
            )
            for name in sets
            if name != "hard"
        ),
        _differ([each for name, found in sets.items() if name != "hard" for each in found]),
        *(
            Table(
                "Where cold evidence misleads",
                ("network", "why it is hard", *FOUND, *MEASURED),
                [(each["network"], each["why"], *_found(each), *_measured(each)) for each in hard],
                _misled(hard),
                names=4,
            )
            for name, hard in sets.items()
            if name == "hard"
        ),
    ]


def _dead(sets: dict[str, list[Entry]]) -> Table:
    all_ = [each for entries in sets.values() for each in entries]
    chosen = {f"{name}, all": entries for name, entries in sets.items()}
    chosen |= {"all": all_, "all but the hard ones": [each for each in all_ if not each["why"]]}
    return Table(
        "Dead units: how far the cold share is from the warm one",
        ("networks", "number", "layers told", "mean", "silence as 0 %", "largest"),
        [_distances(name, entries) for name, entries in chosen.items() if entries],
        "In points of 100, mean over networks of the mean over their ReLU layers. Layers told "
        "are those of which the file tells, of all; in the fifth column those of which it does "
        "not count as if it had said that no unit is dead. The hard ones are listed below, "
        "each with its reason.",
    )


SETS = ("declared", "held-out", "hard")

FOUND = ("cold finds", "warm finds")
MEASURED = ("dead units, cold / warm, %", "first / last, cold", "first / last, warm")

NOTE = (
    "Dead: at each ReLU, a dash where the file does not tell. First / last: the gradient of the "
    "first bias over that of the last as the optimizer remembers it, and the backward signal of "
    "the first site over that of the last as a run measures it."
)


def _found(entry: Entry) -> tuple[str, ...]:
    return tuple(", ".join(entry[how]) or "nothing" for how in ("cold", "warm"))


def _measured(entry: Entry) -> tuple[str, ...]:
    dead = ", ".join(f"{_percent(cold)} / {_percent(warm)}" for _, cold, warm in entry["dead"])
    return (dead or "no ReLU", _ratio(entry["ratio cold"]), _ratio(entry["ratio warm"]))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0 else "–"


def _ratio(value: float) -> str:
    return f"{value:.2g}" if value >= 0 else "–"


# --- Dead units -------------------------------------------------------------------------------


def _distances(name: str, entries: Sequence[Entry]) -> tuple[str, ...]:
    with_relus = [each for each in entries if each["dead"]]
    told = [distance for each in with_relus if (distance := _apart(each)) >= 0]
    silent = [_apart(each, silence=0.0) for each in with_relus]
    layers = [cold for each in with_relus for _, cold, _ in each["dead"]]
    return (
        name,
        str(len(with_relus)),
        f"{sum(cold >= 0 for cold in layers)} of {len(layers)}",
        f"{100 * statistics.mean(told):.1f}",
        f"{100 * statistics.mean(silent):.1f}",
        f"{100 * max(told):.0f}",
    )


def _apart(entry: Entry, silence: float = math.nan) -> float:
    """Mean distance of the shares over layers that are told; NaN where none is."""
    pairs = [(cold if cold >= 0 else silence, warm) for _, cold, warm in entry["dead"]]
    known = [abs(cold - warm) for cold, warm in pairs if cold >= 0]
    return statistics.mean(known) if known else math.nan


# --- Findings ---------------------------------------------------------------------------------


def is_healthy(entry: Entry) -> bool:
    """Whether nothing was done to it, and a run on data finds nothing."""
    return entry["kind"] == "healthy" and not entry["warm"]


def is_at_fault(entry: Entry, code: str) -> bool:
    return code in entry["warm"] or (code in BUILT and entry["rule"] == code)


def _verdicts(code: str, sets: dict[str, list[Entry]]) -> tuple[str, ...]:
    cells = [code]
    for entries in sets.values():
        faulty = [each for each in entries if is_at_fault(each, code)]
        false = [each for each in _finding(code, entries) if not is_at_fault(each, code)]
        on_healthy = sum(map(is_healthy, false))
        cells.append(f"{len(_finding(code, faulty))} of {len(faulty)}" if faulty else "–")
        elsewhere = f" + {len(false) - on_healthy}" if len(false) > on_healthy else ""
        cells.append(f"{on_healthy} of {sum(map(is_healthy, entries))}{elsewhere}")
    return tuple(cells)


def _finding(code: str, entries: Iterable[Entry]) -> list[Entry]:
    return [each for each in entries if code in each["cold"]]


def _differ(entries: Sequence[Entry]) -> Table:
    lines = []
    for each in entries:
        cold, warm = set(each["cold"]), set(each["warm"])
        if cold != warm:
            only = (", ".join(sorted(some)) or "–" for some in (cold - warm, warm - cold))
            lines.append((each["network"], each["kind"], *only, _measured(each)[0]))
    return Table(
        "Declared and held-out networks of which a checkpoint and a run say different things",
        ("network", "built", "only cold", "only warm", MEASURED[0]),
        lines,
        "GS103 is said of a gradient that was zero at every step; of one that died later the "
        "memory keeps a rest. GS201 by a run leaves out as many dead units as are always positive, "
        "which a checkpoint does not see. GS301 by a run is lenient with biases that move, GS303 "
        "leaves trained weights alone. GS101 under Adam and its like is said where gradients come "
        "near its eps, which is met sooner or later by different ones of a layer's gradients.",
        names=4,
    )


def _misled(hard: Sequence[Entry]) -> str:
    """Those of the hard cases in which a checkpoint says more or less than a run."""
    missed = [each for each in hard if set(each["warm"]) - set(each["cold"])]
    more = [each for each in hard if set(each["cold"]) - set(each["warm"])]
    return (
        f"In {len(hard) - len({each['network'] for each in missed + more})} of {len(hard)} the "
        f"checkpoint says what the run says. It misses a finding in {len(missed)}: "
        f"{_names(missed)}. It has one that the run has not in {len(more)}: {_names(more)}."
    )


def _names(entries: Sequence[Entry]) -> str:
    return "; ".join(each["network"] for each in entries) or "none"
