"""What a checkpoint tells, layer by layer: gradients as its optimizer remembers them, and weights.

A layer is a matrix or a kernel, in the order in which they are stored. Without an optimizer's
moments only what the weights tell is left.
"""

from __future__ import annotations

import math

from gradscope.inactive import inactive_units
from gradscope.records import Profile
from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Figure,
    Table,
    Tone,
)
from gradscope.reports.sections.signal import BAR_DECADES, drawable, series
from gradscope.reports.wording import among, count, listed, number, percent, positions_shown
from gradscope.stored import GradientEvidence, Stored, StoredWeight

__all__ = ["GRADIENT", "INACTIVE", "SCALE", "looked_at_stored", "stored_layers"]

GRADIENT = "Gradient of the weights (RMS, as the optimizer remembers it)"
SCALE = "Scale of the weights (RMS times the root of the fan-in)"
"""Titles of charts."""
INACTIVE = 0.5
"""Share of a layer's units from which it is shown as bad, as GS201 has it."""


def looked_at_stored(stored: Stored) -> str:
    """What was read, as a sentence without a full stop."""
    step = "" if stored.step is None else f" after {count(stored.step, 'step')}"
    known = [kind for kind in dict.fromkeys(stored.optimizers) if kind]
    moments = f" and what {listed(known)} remembers{step}" if known else step
    return f"Read {count(len(stored.weights), 'tensor')}{moments}"


def stored_layers(profile: Profile) -> tuple[Block, ...]:
    """One figure: the gradient of each layer, idle units, next update, scale of the weights."""
    stored = profile.stored
    if stored is None or not stored.layers:
        return ()
    layers = [(layer, stored.gradient(layer.name)) for layer in stored.layers]
    remembered = any(found is not None and found.gradient_rms >= 0 for _, found in layers)
    chart = _chart(layers) if remembered else None
    return (Figure((chart,) if chart else (), _table(stored, layers, remembered)),)


Layers = list[tuple[StoredWeight, GradientEvidence | None]]


def _gradient(found: GradientEvidence | None) -> float:
    return math.nan if found is None else found.gradient_rms


def _chart(layers: Layers) -> Chart | None:
    line = series(
        "stored",
        Tone.PLAIN,
        [
            (float(at), _gradient(found), layer.name)
            for at, (layer, found) in enumerate(layers, start=1)
        ],
    )
    if not line.points:
        return None
    return Chart(
        ChartKind.LINES,
        GRADIENT,
        f"{GRADIENT} by layer, log scale: {number(line.points[0][1])} at the first, "
        f"{number(line.points[-1][1])} at the last.",
        "layer, in the model's order" + (" (× zero or not known)" if line.missing else ""),
        (line,),
        logarithmic=True,
    )


def _table(stored: Stored, layers: Layers, remembered: bool) -> Table:
    known = [math.log10(value) for _, found in layers if drawable(value := _gradient(found))]
    high = max(known, default=0.0)
    low = min([*known, high - BAR_DECADES])
    columns = [Column("#", numeric=True), Column("layer", name=True)]
    if remembered:
        columns += [
            Column("gradient", numeric=True),
            Column("no gradient", numeric=True),
            Column("next update", numeric=True, optional=True),
        ]
    columns.append(Column("scale", numeric=True))
    rows = []
    shown, inactive = positions_shown(len(layers)), inactive_units(stored)
    for at in shown:
        layer, found = layers[at]
        row = [Cell(str(at + 1), Tone.MUTED), Cell(layer.name)]
        if remembered:
            value = _gradient(found)
            bar = among(math.log10(value), low, high) if drawable(value) else 0.0
            idle = inactive.get(layer.name)
            row += [
                Cell(number(value), bar=bar),
                Cell(
                    "–" if idle is None else percent(idle),
                    Tone.BAD if idle is not None and idle > INACTIVE else Tone.PLAIN,
                ),
                Cell(number(math.nan if found is None else found.update_ratio)),
            ]
        row.append(Cell(number(layer.scale)))
        rows.append(tuple(row))
    left = len(layers) - len(shown)
    return Table(
        tuple(columns),
        tuple(rows),
        "Gradient: RMS of its elements, as the optimizer remembers it. No gradient: share of "
        "units. Scale: RMS of the weights times the root of their fan-in; 0.6 to 1.4 is usual at "
        "the start."
        + (f" {count(left, 'layer')} between these are in the JSON report." if left else ""),
    )
