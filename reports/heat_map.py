"""Heat maps as inline SVG: shades of one colour of the page, so that light and dark show the same.

Neighbouring cells of one shade are drawn as one, and all of a shade as one path: thousands of cells
open at once. Hatching, not a second colour, says what a logarithm cannot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from gradscope.reports.nodes import HeatMap
from gradscope.reports.wording import number, percent, shortened

__all__ = ["draw_heat_map"]

_LEFT, _TOP, _BOTTOM, _RIGHT = 96.0, 26.0, 34.0, 12.0
_WIDTH = 290.0
_LEAST_HEIGHT, _MOST_HEIGHT = 60.0, 300.0
_ROW_HEIGHT = 12.0
"""Height of a row where there is room for it; then each can have its name beside it."""
_SHADES = 12
_FAINTEST = 0.05
_NAME_LENGTH = 17
_TICKS = 4
_HATCHED = -1


def draw_heat_map(heat: HeatMap, identity: str) -> str:
    """The heat map as one ``<svg>`` element.

    Args:
        heat: what to draw.
        identity: unique in the page, for the ids inside.
    """
    low, high = _span(heat)
    tall = min(_MOST_HEIGHT, max(_LEAST_HEIGHT, _ROW_HEIGHT * len(heat.rows)))
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + tall + _BOTTOM
    hatch = f"{identity}-hatch"
    label = escape(f"{heat.title}. {heat.summary}")
    return "".join(
        (
            f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}" '
            'font-family="system-ui, sans-serif" font-size="11">',
            f'<defs><pattern id="{hatch}" width="4" height="4" patternUnits="userSpaceOnUse">'
            '<path d="M0 4L4 0" stroke="var(--bad)" stroke-width="1.4"/></pattern></defs>',
            *_legend(heat, low, high, hatch),
            f'<rect x="{_LEFT:g}" y="{_TOP:g}" width="{_WIDTH:g}" height="{tall:g}" '
            'fill="none" stroke="var(--line)"/>',
            *_cells(heat, low, high, tall, hatch),
            *_names(heat, tall),
            *_ticks(heat, tall),
            "</svg>",
        )
    )


def _span(heat: HeatMap) -> tuple[float, float]:
    """The values, or their powers of ten, at the two ends of the shades."""
    if heat.percent:
        return 0.0, 1.0
    seen = [value for _, row in heat.rows for value in row if _shaded(heat, value)]
    if not seen:
        return 0.0, 1.0
    if not heat.logarithmic:
        return min(seen), max(max(seen), min(seen) + 1e-12)
    low = math.floor(math.log10(min(seen)))
    return float(low), float(max(low + 1, math.ceil(math.log10(max(seen)))))


def _shaded(heat: HeatMap, value: float) -> bool:
    return math.isfinite(value) and (value > 0 or not heat.logarithmic)


def _shade(heat: HeatMap, value: float, low: float, high: float) -> int | None:
    if math.isnan(value):
        return None
    if not _shaded(heat, value):
        return _HATCHED
    at = math.log10(value) if heat.logarithmic else value
    return min(_SHADES - 1, max(0, int((at - low) / (high - low) * _SHADES)))


def _paint(shade: int, hatch: str) -> str:
    if shade == _HATCHED:
        return f'fill="url(#{hatch})"'
    opacity = _FAINTEST + (1 - _FAINTEST) * shade / (_SHADES - 1)
    return f'fill="var(--plain)" fill-opacity="{opacity:.2f}"'


def _cells(heat: HeatMap, low: float, high: float, tall: float, hatch: str) -> Iterator[str]:
    places = _places(heat)
    step = tall / max(1, len(heat.rows))
    paths: dict[int, list[str]] = {}
    for at, (_, row) in enumerate(heat.rows):
        shades = [_shade(heat, value, low, high) for value in row]
        for shade, begin, end in _runs(shades):
            x, w = places[begin], places[end] - places[begin]
            paths.setdefault(shade, []).append(
                f"M{x:.1f} {_TOP + at * step:.1f}h{w:.1f}v{step:.2f}h-{w:.1f}z"
            )
    for shade, parts in sorted(paths.items()):
        yield f'<path {_paint(shade, hatch)} shape-rendering="crispEdges" d="{"".join(parts)}"/>'
    for at, (name, row) in enumerate(heat.rows):
        # What a reader who points at a row is told.
        known = [value for value in row if not math.isnan(value)]
        say = percent if heat.percent else number
        told = f"{name}: {say(known[0])} to {say(known[-1])}" if known else f"{name}: not seen"
        yield (
            f'<rect x="{_LEFT:g}" y="{_TOP + at * step:.1f}" width="{_WIDTH:g}" '
            f'height="{step:.2f}" fill-opacity="0"><title>{escape(told)}</title></rect>'
        )


def _places(heat: HeatMap) -> list[float]:
    """Where columns begin and, last, where the last one ends."""
    edges = [heat.start, *heat.edges]
    whole = max(edges[-1] - edges[0], 1e-12)
    return [_LEFT + (edge - edges[0]) / whole * _WIDTH for edge in edges]


def _runs(shades: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Stretches of one shade, with the column that each begins at and the one after its end."""
    begin = 0
    for at in range(1, len(shades) + 1):
        if at == len(shades) or shades[at] != shades[begin]:
            shade = shades[begin]
            if shade is not None:
                yield shade, begin, at
            begin = at


def _names(heat: HeatMap, tall: float) -> Iterator[str]:
    rows = len(heat.rows)
    room = min(rows, max(2, int(tall / _ROW_HEIGHT)))
    for each in range(room):
        at = round(each * (rows - 1) / max(1, room - 1))
        y = _TOP + (at + 0.5) * tall / rows
        name = escape(shortened(heat.rows[at][0], _NAME_LENGTH))
        yield (
            f'<text x="{_LEFT - 6:g}" y="{y:.1f}" text-anchor="end" dominant-baseline="central" '
            f'font-size="10" fill="var(--ink)">{name}</text>'
        )


def _ticks(heat: HeatMap, tall: float) -> Iterator[str]:
    first, last = heat.start, heat.edges[-1] if heat.edges else heat.start
    y = _TOP + tall
    apart = _apart(last - first)
    for at in range(math.ceil(first / apart), math.floor(last / apart) + 1):
        x = _LEFT + (at * apart - first) / max(last - first, 1e-12) * _WIDTH
        anchor = "end" if x > _LEFT + _WIDTH - _RIGHT else "middle"
        yield (
            f'<path d="M{x:.1f} {y:g}v4" stroke="var(--line)"/><text x="{x:.1f}" y="{y + 15:g}" '
            f'text-anchor="{anchor}" fill="var(--ink)">{round(at * apart):,}</text>'
        )
    yield (
        f'<text x="{_LEFT + _WIDTH / 2:g}" y="{y + 29:g}" text-anchor="middle" '
        f'fill="var(--muted)">{escape(heat.x_title)}</text>'
    )


def _apart(span: float) -> float:
    """The round number that so few ticks stand apart that their numbers do not touch."""
    least = max(span / _TICKS, 1.0)
    power = 10.0 ** math.floor(math.log10(least))
    # Steps are whole.
    steps = (1, 2, 5, 10) if power < 10 else (1, 2, 2.5, 5, 10)
    return next(power * each for each in steps if power * each >= least)


def _legend(heat: HeatMap, low: float, high: float, hatch: str) -> Iterator[str]:
    size = 9.0
    ends = (10**low, 10**high) if heat.logarithmic else (low, high)
    before, after = (percent(each) if heat.percent else number(each) for each in ends)
    x = _LEFT + 34
    yield _said(x - 5, "end", before)
    for shade in range(_SHADES):
        yield (
            f'<rect x="{x + shade * size:g}" y="4" width="{size:g}" height="10" '
            f"{_paint(shade, hatch)}/>"
        )
    yield _said(x + _SHADES * size + 5, "start", after)
    if any(
        not math.isnan(value) and not _shaded(heat, value) for _, row in heat.rows for value in row
    ):
        far = x + _SHADES * size + 46
        yield f'<rect x="{far:g}" y="4" width="14" height="10" {_paint(_HATCHED, hatch)}/>'
        yield _said(far + 19, "start", "zero or not finite")


def _said(x: float, anchor: str, text: str) -> str:
    return f'<text x="{x:g}" y="13" text-anchor="{anchor}" fill="var(--ink)">{escape(text)}</text>'
