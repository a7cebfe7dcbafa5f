"""The layers or sites of two reports side by side: a chart, and a table of those that differ most.

Those shown stand in the model's order, so that what happens over depth can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradscope.reports.comparing.side_by_side import Picture, PictureKind, Place
from gradscope.reports.nodes import (
    Block,
    Cell,
    Chart,
    ChartKind,
    Column,
    Figure,
    Paragraph,
    Table,
    Tone,
)
from gradscope.reports.sections.signal import series
from gradscope.reports.sections.stored import GRADIENT, INACTIVE, SCALE
from gradscope.reports.wording import count, number, percent

__all__ = ["place_blocks"]

_ROWS = 24
"""Layers listed in the table; all are in the JSON."""


def place_blocks(picture: Picture) -> Iterator[Block]:
    """One figure; where nothing differs, the sentence that says so."""
    stored = picture.kind is PictureKind.STORED
    places = f"{count(len(picture.places), 'layer' if stored else 'site')}"
    if not any(place.difference for place in picture.places):
        yield Paragraph(f"The same numbers in both, at {places}.")
    else:
        chart = _chart(picture)
        yield Figure((chart,) if chart else (), _table(picture), folded=False)
    only = [
        f"{amount:,} only in {name}"
        for name, amount in (("A", picture.only_a), ("B", picture.only_b))
        if amount
    ]
    if only:
        yield Paragraph(f"Of {places} in both; {' and '.join(only)}.", Tone.MUTED)


def _chart(picture: Picture) -> Chart | None:
    stored = picture.kind is PictureKind.STORED
    gradients = [(place.a.gradient, place.b.gradient) for place in picture.places]
    title = GRADIENT
    if not stored:
        title = "Backward signal (RMS of dL/d output)"
    if not any(a is not None and b is not None for a, b in gradients):
        title = SCALE
        gradients = [(place.a.scale, place.b.scale) for place in picture.places]
    lines = []
    said = []
    for name, tone, side in (("A", Tone.MUTED, 0), ("B", Tone.PLAIN, 1)):
        points = [
            (float(at), value, place.name)
            for at, (place, pair) in enumerate(zip(picture.places, gradients, strict=True), start=1)
            if (value := pair[side]) is not None
        ]
        line = series(name, tone, points)
        if line.points:
            first, last = line.points[0][1], line.points[-1][1]
            said.append(f"{name}: {number(first)} at the first, {number(last)} at the last")
        lines.append(line)
    if not said:
        return None
    return Chart(
        ChartKind.LINES,
        title,
        f"{title} by {'layer' if stored else 'site'}, log scale; {'; '.join(said)}.",
        ("layer, as stored" if stored else "site, input to output")
        + (" (× zero or not finite)" if any(line.missing for line in lines) else ""),
        tuple(lines),
        logarithmic=True,
    )


def _table(picture: Picture) -> Table:
    stored = picture.kind is PictureKind.STORED
    by_difference = sorted(
        range(len(picture.places)), key=lambda at: picture.places[at].difference, reverse=True
    )
    shown = [picture.places[at] for at in sorted(by_difference[:_ROWS])]
    readings = [reading for place in shown for reading in (place.a, place.b)]
    gradients = any(reading.gradient is not None for reading in readings)
    idle = any(reading.idle for reading in readings)
    gradient, scale = ("gradient", "scale") if stored else ("backward", "forward")
    columns = [Column("layer" if stored else "site", name=True)]
    if gradients:
        columns += _both(gradient)
    if idle:
        columns += _both("idle")
    columns += _both(scale, optional=not stored)
    rows = tuple(tuple(_row(place, gradients, idle)) for place in shown)
    return Table(tuple(columns), rows, _caption(picture, shown, gradients, idle))


def _both(title: str, *, optional: bool = False) -> list[Column]:
    return [Column(f"{title} {side}", numeric=True, optional=optional) for side in "AB"]


def _row(place: Place, gradients: bool, idle: bool) -> Iterator[Cell]:
    yield Cell(place.name)
    both = (place.a, place.b)
    if gradients:
        yield from (Cell(number(reading.gradient)) for reading in both)
    if idle:
        for reading in both:
            bad = reading.idle is not None and reading.idle > INACTIVE
            yield Cell(percent(reading.idle), Tone.BAD if bad else Tone.PLAIN)
    yield from (Cell(number(reading.scale)) for reading in both)


def _caption(picture: Picture, shown: Sequence[Place], gradients: bool, idle: bool) -> str:
    said = []
    if picture.kind is PictureKind.STORED:
        if gradients:
            said.append("Gradient: RMS of its elements, as the optimizer remembers it.")
        if idle:
            said.append("Idle: share of units that get no gradient.")
        said.append("Scale: RMS of the weights times the root of their fan-in.")
    else:
        said.append("Backward: RMS of dL/d output, median over the steps.")
        if idle:
            said.append("Idle: share of dead or saturated units.")
        said.append("Forward: RMS of the output.")
    if len(shown) < len(picture.places):
        said.append(
            f"The {len(shown)} of {len(picture.places):,} that differ most, in order; all are in "
            "the JSON."
        )
    return " ".join(said)
