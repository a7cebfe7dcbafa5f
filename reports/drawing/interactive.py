"""What the page's script is given, and the script itself.

All that comes from a model goes to the script as data: JSON in an element that no browser runs,
with every character escaped that could end it. Long lists of numbers are written with three
significant digits, as one string.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gradscope.reports.drawing.charts import history_specification, specification
from gradscope.reports.drawing.heat_map import heat_specification, shades
from gradscope.reports.drawing.svg import windowed
from gradscope.reports.nodes import (
    Block,
    Card,
    Chart,
    ChartKind,
    Document,
    Figure,
    Fold,
    HeatMap,
    Histories,
)

__all__ = ["as_json", "compact", "figure_data", "has_figures", "libraries"]

_ESCAPED = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def has_figures(document: Document) -> bool:
    """Whether there is anything to draw."""
    return any(
        isinstance(each, Figure) and each.charts
        for section in document.sections
        for each in _blocks(section.blocks)
    )


def _blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    for each in blocks:
        yield each
        if isinstance(each, (Card, Fold)):
            yield from _blocks(each.blocks)


@functools.cache
def libraries() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which leaves ``gradscopeVega`` behind.

    Made once for each process: it takes a second.
    """
    import vl_convert

    script: str = vl_convert.javascript_bundle("globalThis.gradscopeVega = { embed: vegaEmbed };")
    # Its names stay its own.
    script = f"(() => {{\n{script}\n}})();"
    # As text of an element; within strings and patterns of a script both spellings are the same.
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def as_json(data: object) -> str:
    """JSON that is safe as the text of a ``<script>`` element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPED)


def figure_data(figure: Figure) -> dict[str, Any]:
    """All that the script needs to draw a figure's charts and to answer to a reader."""
    charts = [_chart(chart) for chart in figure.charts]
    if figure.linked and charts:
        # One part of the x axis for all, so that one place of the window is one step in each.
        windows = [windowed(each["spec"]) for each in charts]
        low, high = min(low for low, _ in windows), max(high for _, high in windows)
        for each in charts:
            for parameter in each["spec"]["params"]:
                parameter["value"] = {"low": low, "high": high}.get(
                    parameter["name"], parameter.get("value")
                )
    made: dict[str, Any] = {"linked": figure.linked, "charts": charts}
    if figure.histories is not None and figure.histories.layers:
        made["histories"] = _histories(figure.histories)
    return made


def _chart(chart: Chart | HeatMap) -> dict[str, Any]:
    shared = {"title": chart.title, "x": chart.x_title, "percent": chart.percent}
    if isinstance(chart, HeatMap):
        return shared | {
            "kind": "heat",
            "spec": heat_specification(chart),
            "edges": [chart.start, *chart.edges],
            "names": [name for name, _ in chart.rows],
            "shades": shades(chart),
            "values": [compact(row) for _, row in chart.rows],
        }
    kind = "columns" if chart.kind is ChartKind.COLUMNS else "lines"
    return shared | {"kind": kind, "spec": specification(chart)}


def _histories(histories: Histories) -> dict[str, Any]:
    times = histories.times
    low, high = (times[0], times[-1]) if times else (0.0, 1.0)
    margin = 0.015 * (high - low) or 0.5
    low, high = low - margin, high + margin
    return {
        "x": histories.x_title,
        "times": list(times),
        "quantities": [
            {
                "name": quantity.name,
                "percent": quantity.percent,
                "logarithmic": quantity.logarithmic,
                "spec": history_specification(quantity, histories.x_title, low, high),
            }
            for quantity in histories.quantities
        ],
        "names": [layer.name for layer in histories.layers],
        "series": [[compact(values) for values in layer.series] for layer in histories.layers],
    }


def compact(values: Sequence[float]) -> str:
    """Numbers with three significant digits each, as a script's ``Number`` reads them."""
    return " ".join(map(_shortest, values))


def _shortest(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    whole, _, part = mantissa.partition(".")
    part = part.rstrip("0")
    scientific = f"{whole}{part}e{int(exponent) - len(part)}"
    plain = f"{value:.3g}"
    if plain.startswith("0."):
        plain = plain[1:]
    return min(plain, scientific, key=len)
