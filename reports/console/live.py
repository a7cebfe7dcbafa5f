"""One frame of the live view of a training run, for a terminal of any size.

It has as many lines as it is given and no more: first what the run is and does, then its loss and
gradient, what is found, and as many layers as there is room for, those in findings before others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from gradscope.history import SiteHistory, TrainingHistory, newest
from gradscope.reports.console.fitting import told_apart, width_of
from gradscope.reports.console.pen import STYLES, Pen
from gradscope.reports.console.sparklines import sparkline
from gradscope.reports.nodes import Mark, Tone
from gradscope.reports.sections.signal import BAR_DECADES, drawable
from gradscope.reports.sections.stored import INACTIVE
from gradscope.reports.wording import SEVERITY, among, count, number, percent
from gradscope.training import Alert

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Now", "frame", "sparkline"]

_BAR = 8
_LEAST_NAME, _MOST_NAME = 12, 36
_NUMBER = 8
_SHARE = 6
_FINDINGS = 5
"""Lines of findings at most, where there are layers to show beside them."""
_NARROW = 60
"""Below so many columns layers have no sparklines."""


@dataclass(frozen=True, slots=True)
class Now:
    """What a frame shows.

    Attributes:
        name: of the file.
        parameters: how many elements the model has.
        state: what the run does, as far as can be told.
        age: seconds since the run last wrote.
    """

    name: str
    parameters: int
    history: TrainingHistory
    state: Mark
    age: float


def frame(now: Now, console: Console, height: int, *, closing: str = "") -> list[Text]:
    """The lines of a frame: at most ``height``, none wider than the console.

    Args:
        now: what to show.
        console: whose width and encoding count.
        height: how many lines there is room for.
        closing: the last line.
    """
    pen = Pen(console)
    width = console.width
    history = now.history
    head = [_title(pen, now, width), _status(pen, now)]
    if history.last_step < 0:
        head.append(pen.text("Nothing is recorded yet.", "dim"))
        return _cut([*head, *_closing(pen, closing)], width, height)
    head += [
        _curve(pen, "loss", history.steps, history.loss, history.last_step, width),
        _curve(pen, "gradient", history.sampled, history.gradient_norm, history.last_step, width),
    ]
    room = height - len(head) - bool(closing)
    findings = _findings(pen, history, width, min(_FINDINGS, max(1, room // 3)))
    layers = _layers(pen, history, width, room - len(findings))
    return _cut([*head, *findings, *layers, *_closing(pen, closing)], width, height)


def _joined(pen: Pen, *parts: Text) -> Text:
    """One line of them; each keeps its style."""
    line = pen.text("")
    for part in parts:
        line.append_text(part)
    return line


def _cut(lines: list[Text], width: int, height: int) -> list[Text]:
    lines = lines[: max(1, height)]
    for line in lines:
        line.truncate(width)
        line.rstrip()
    return lines


def _closing(pen: Pen, closing: str) -> Iterator[Text]:
    if closing:
        yield pen.text(closing, "dim")


def _title(pen: Pen, now: Now, width: int) -> Text:
    about = f"{now.history.model}, {count(now.parameters, 'parameter')}"
    name = pen.name(now.name, max(_LEAST_NAME, width - len(about) - 2))
    return _joined(pen, pen.text(name, "bold"), pen.text(f"  {about}", "dim"))


def _status(pen: Pen, now: Now) -> Text:
    history = now.history
    said = []
    if history.last_step >= 0:
        said.append(f"step {history.last_step:,}")
    if history.seconds > 0:
        said.append(_pace(history.seconds))
    if history.learning_rate and not math.isnan(rate := newest(history.learning_rate)):
        said.append(f"rate {number(rate)}")
    said.append(f"written {_ago(now.age)} ago")
    if history.dropped:
        said.append(f"{history.dropped:,} dropped")
    state = pen.marked(now.state, "", strong=True)
    return _joined(pen, state, pen.text("  " + " · ".join(said)))


def _pace(seconds: float) -> str:
    """Steps in a second, or seconds of a step."""
    return f"{number(1 / seconds)} steps/s" if seconds < 1 else f"{number(seconds)} s/step"


def _ago(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# --- Curves -----------------------------------------------------------------------------------


def _curve(
    pen: Pen, name: str, steps: Sequence[int], series: Sequence[float], last: int, width: int
) -> Text:
    known = [value for value in series if not math.isnan(value)]
    title = pen.text(f"{name:<9}", "dim")
    if not known:
        unknown = "not given" if name == "loss" else "not seen"
        return _joined(pen, title, pen.text(unknown, "dim"))
    now = known[-1]
    if name == "loss":
        # Among losses that were given, NaN is one; of a gradient it is one that was not seen.
        now = series[-1]
        series = [math.inf if math.isnan(value) else value for value in series]
    value = pen.text(f"{number(now):>{_NUMBER}}  ", "bold" if math.isfinite(now) else "red")
    drawn = [value for value in known if math.isfinite(value)]
    ends = f"  {number(min(drawn))} to {number(max(drawn))}" if drawn else ""
    room = width - title.cell_len - value.cell_len - len(ends)
    line = pen.text(sparkline(steps, series, last, room))
    return _joined(pen, title, value, line, pen.text(ends, "dim"))


# --- Findings ---------------------------------------------------------------------------------


def _findings(pen: Pen, history: TrainingHistory, width: int, most: int) -> list[Text]:
    standing = history.standing
    gone = len(history.alerts) - len(standing)
    said = f"{len(standing)} found now" + (f", {gone:,} gone" if gone else "")
    lines = [_rule(pen, "findings", said if history.alerts else "", width)]
    if not standing:
        lines.append(pen.marked(Mark("✓", "nothing is found", Tone.GOOD), ""))
        return lines
    shown = standing[:most] if len(standing) <= most else standing[: most - 1]
    lines += [_finding(pen, alert) for alert in shown]
    if len(shown) < len(standing):
        lines.append(pen.text(f"  and {len(standing) - len(shown)} more", "dim"))
    return lines


def _finding(pen: Pen, alert: Alert) -> Text:
    mark = SEVERITY[alert.severity]
    named = pen.text(f"{mark.symbol} {mark.word} {alert.code} {alert.name}", STYLES[mark.tone])
    said = f"  since step {alert.step:,}"
    if alert.sites:
        more = len(alert.sites) - 1
        said += f", {pen.name(alert.sites[0], 28)}" + (f" and {more:,} more" if more else "")
    if alert.cause:
        said += f", caused by {alert.cause}"
    return _joined(pen, named, pen.text(said))


def _rule(pen: Pen, title: str, said: str, width: int) -> Text:
    words = [pen.text(title, "bold"), pen.text(f"  {said} " if said else " ", "dim")]
    rest = width - sum(each.cell_len for each in words)
    return _joined(pen, *words, pen.text("─" * rest, "dim"))


# --- Layers -----------------------------------------------------------------------------------


def _layers(pen: Pen, history: TrainingHistory, width: int, room: int) -> list[Text]:
    sites = [site for site in history.shown if site.backward_rms or site.idle]
    rows = room - 2
    if not sites or rows < 1:
        return []
    chosen = chosen_layers(sites, rows, history.standing)
    shown = [sites[at] for at in chosen]
    told = f"{len(shown)} of {len(sites):,}" if len(shown) < len(sites) else f"{len(sites):,}"
    lines = [_rule(pen, "layers", f"{told}, from input to output; log scale", width)]
    logs = [math.log10(value) for site in sites for value in site.backward_rms if drawable(value)]
    high = math.ceil(max(logs, default=0.0))
    low = min(math.floor(min(logs, default=0.0)), high - BAR_DECADES)
    marks = {
        name: SEVERITY[alert.severity]
        for alert in reversed(history.standing)
        for name in alert.sites
    }
    idle = any(site.idle for site in sites)
    name = _name_width(pen, shown, width, idle)
    curve = width - name - 2 - (_NUMBER + _BAR + 3) - (_SHARE + _BAR + 3 if idle else 0) - 2
    if width < _NARROW:
        curve = 0
    heading = f"  {'layer':<{name}}{'backward':>{_NUMBER}} {'':<{_BAR}}  "
    if curve > 0:
        heading += f"{'over steps':<{curve}}"[:curve] + "  "
    if idle:
        dead = not any(site.saturated and not site.dead for site in sites)
        heading += f"{'dead' if dead else 'idle':>{_SHARE}}"
    lines.append(pen.text(heading, "dim"))
    names = told_apart([pen.plain(site.name) for site in shown], name - 1)
    for site, said in zip(shown, names, strict=True):
        drawn = sparkline(history.sampled, site.backward_rms, history.last_step, curve, (low, high))
        over = f"{drawn:<{curve}}  " if curve > 0 else ""
        padded = pen.plain(said) + " " * (name - width_of(said))
        lines.append(_layer(pen, site, marks.get(site.name), padded, over, idle, (low, high)))
    return lines


def _name_width(pen: Pen, shown: Sequence[SiteHistory], width: int, idle: bool) -> int:
    widest = max(width_of(pen.plain(site.name)) for site in shown)
    spare = width - 2 - (_NUMBER + _BAR + 3) - (_SHARE + _BAR + 3 if idle else 0)
    return max(_LEAST_NAME, min(widest, _MOST_NAME, spare // 2)) + 1


def _layer(
    pen: Pen,
    site: SiteHistory,
    mark: Mark | None,
    name: str,
    over: str,
    idle: bool,
    scale: tuple[float, float],
) -> Text:
    sign = pen.text(f"{mark.symbol} " if mark else "  ", STYLES[mark.tone] if mark else "")
    line = _joined(pen, sign, pen.text(name))
    value = newest(site.backward_rms)
    full = among(math.log10(value), *scale) if drawable(value) else 0.0
    bad = not drawable(value) and not math.isnan(value)
    said = "–" if math.isnan(value) else number(value)
    line.append_text(pen.text(f"{said:>{_NUMBER}} ", "red" if bad else ""))
    line.append_text(pen.text(pen.bar(full, _BAR), "blue")).append("  ")
    line.append_text(pen.text(over))
    if idle:
        share = newest(site.idle)
        unknown = math.isnan(share)
        style = STYLES[Tone.BAD] if share > INACTIVE else ""
        line.append_text(pen.text(f"{'–' if unknown else percent(share):>{_SHARE}} ", style))
        line.append_text(pen.text(pen.bar(0.0 if unknown else share, _BAR), style or "yellow"))
    return line


def chosen_layers(sites: Sequence[SiteHistory], rows: int, standing: Sequence[Alert]) -> list[int]:
    """Which of the sites are shown where not all can be, in their order.

    The ends; then up to half of the rows for those that findings name or that are worst; then, so
    that the course over depth is seen, evenly spaced ones.
    """
    if len(sites) <= rows:
        return list(range(len(sites)))
    named = {name for alert in standing for name in alert.sites}

    def badness(at: int) -> tuple[bool, float, float]:
        site = sites[at]
        share, signal = newest(site.idle), newest(site.backward_rms)
        return (
            site.name not in named,
            0.0 if math.isnan(share) else -share,
            math.inf if math.isnan(signal) else signal,
        )

    kept = {0, len(sites) - 1} if rows > 1 else set()
    for at in sorted(range(len(sites)), key=badness):
        if len(kept) >= max(1, (rows + 2) // 2):
            break
        kept.add(at)
    while len(kept) < rows:
        # The middle of the widest gap.
        order = sorted(kept)
        gap, after = max((b - a, b) for a, b in pairwise(order))
        kept.add(after - gap // 2)
    return sorted(kept)
