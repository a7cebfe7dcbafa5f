"""Pages to look at in a browser, made once each, and the browser."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from gradscope.reports import render_html
from gradscope.reports.html import render_page
from gradscope.reports.nodes import (
    Band,
    Cell,
    Chart,
    ChartKind,
    Code,
    Column,
    Document,
    Figure,
    Headline,
    HeatMap,
    Histories,
    History,
    Line,
    Mark,
    Paragraph,
    Quantity,
    Section,
    Table,
    Tone,
)
from tests.reports.conftest import (
    HOSTILE_NAMES,
    demo_report,
    healthy_report,
    hostile_report,
    huge_report,
)
from tests.reports.runs import history, reported

CHROMIUM = Path("/usr/bin/chromium")
"""Taken where it is there; else the browser that ``playwright install chromium`` fetched."""
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
WIDTHS = (360, 1280, 2560)
EVIL = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "var(--bad)",
    *HOSTILE_NAMES,
)


def long_run() -> str:
    """A million steps of thirty layers, as the store thins them."""
    steps = tuple(5_000 * at + 4_999 for at in range(200))
    run = history(layers=30, points=200, last_step=999_999, steps=steps, sampled=steps)
    return render_html(reported(demo_report(), run))


def document(*figures: Figure) -> Document:
    """A page with these figures, a fold and a line to copy."""
    headline = Headline(Mark("✗", "error", Tone.BAD), "It vanishes.")
    return Document(
        "made.py",
        "by hand",
        headline,
        (
            Section("Pictures", (*figures, Code(("gradscope fix made.py",)))),
            Section("More", (Paragraph("Out of sight at first."),), folded=True),
        ),
    )


def figure(names: tuple[str, ...], *, linked: bool = True) -> Figure:
    """A line with labelled points, and a heat map and histories of the same layers."""
    times = tuple(float(at) for at in range(0, 1000, 100))
    share = [
        tuple(10.0 ** -(at / 100 * (len(names) - row) / len(names)) for at in times)
        for row in range(len(names))
    ]
    share[0] = (*share[0][:-2], 0.0, math.inf)
    line = Line(
        names[0],
        Tone.PLAIN,
        tuple((900 * at / len(names) + 50, 10.0 ** -(at % 12)) for at in range(len(names))),
        (950.0,),
        names,
        tuple((0.5 * 10.0 ** -(at % 12), 2 * 10.0 ** -(at % 12)) for at in range(len(names))),
    )
    chart = Chart(
        ChartKind.LINES,
        "Signal",
        f"Signal of {names[0]}.",
        "step",
        (line, Line(names[1], Tone.GOOD, ((0.0, 0.5), (900.0, 0.5)))),
        logarithmic=True,
        band=Band(names[1], 1e-2, 1.0),
    )
    heat = HeatMap(
        "Layers",
        f"Layers, such as {names[0]}.",
        "step",
        tuple(at + 100 for at in times),
        tuple(zip(names, share, strict=True)),
        logarithmic=True,
    )
    layers = tuple(
        History(name, (values, (0.5,) * len(times)))
        for name, values in zip(names, share, strict=True)
    )
    quantities = (Quantity("backward signal", logarithmic=True), Quantity("dead", percent=True))
    table = Table((Column("layer", name=True),), tuple((Cell(name),) for name in names))
    return Figure(
        (chart, heat),
        table,
        linked=linked,
        histories=Histories("step", times, quantities, layers),
    )


PAGES: dict[str, Callable[[], str]] = {
    "demo": lambda: render_html(demo_report()),
    "healthy": lambda: render_html(healthy_report()),
    "hostile": lambda: render_html(hostile_report()),
    "huge": lambda: render_html(huge_report()),
    "run": long_run,
    "made": lambda: render_page(document(figure(tuple(f"layer{at}.relu" for at in range(8))))),
    "evil": lambda: render_page(document(figure(EVIL))),
    "many": lambda: render_page(document(figure(tuple(f"block.{at}.relu" for at in range(300))))),
}


@functools.cache
def html(name: str) -> str:
    return PAGES[name]()


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = CHROMIUM if CHROMIUM.exists() else Path(playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip("no browser to test the page in: run playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, name: str, folder: Path, width: int = 1280, anchor: str = ""
) -> Iterator[Page]:
    """The page, opened from a file; it fails on any request, console message, dialog or error."""
    path = folder / f"{name}.html"
    path.write_text(html(name), encoding="utf-8")
    viewport: ViewportSize = {"width": width, "height": 800}
    page = browser.new_page(viewport=viewport, reduced_motion="reduce")
    page.set_default_timeout(15_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri() + anchor)
    yield page
    page.close()
    assert [each for each in said if not each.startswith(path.as_uri()) and each != "data:,"] == []


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


def draw_all(page: Page) -> None:
    """Waits until each drawing, once seen, answers to a reader."""
    for drawing in page.locator(".drawing").all():
        drawing.scroll_into_view_if_needed()
        drawing.locator(".live > *").first.wait_for(state="attached")
    page.wait_for_function(
        "[...document.querySelectorAll('.drawing')].every(e => e.classList.contains('active'))"
    )
