"""How large a report's page is, how long it takes to write, and when a browser first paints it.

Each page is opened three times in a window of 1280 pixels; the median of the first paints is shown,
and of the times until the first drawing answers to a reader.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that it also starts as a file

from gradscope.history import SiteHistory, TrainingHistory
from gradscope.records import Report
from gradscope.reports import render_html
from tests.reports.conftest import demo_report, healthy_report, huge_report
from tests.reports.pages import launched
from tests.reports.runs import history, reported

ROUNDS = 3


def named(run: TrainingHistory) -> TrainingHistory:
    """The run with names as long as those of real models."""
    sites: tuple[SiteHistory, ...] = tuple(
        replace(site, name=f"encoder.layers.{at}.feed_forward.activation")
        for at, site in enumerate(run.sites)
    )
    return replace(run, sites=sites)


def deep_run() -> Report:
    return reported(demo_report(), named(history(layers=2_000, points=400)))


def long_run() -> Report:
    points = 400
    steps = tuple(1_000_000 // points * (at + 1) - 1 for at in range(points))
    run = history(layers=50, points=points, last_step=999_999, steps=steps, sampled=steps)
    return reported(demo_report(), named(run))


CASES: dict[str, Callable[[], Report]] = {
    "demo": demo_report,
    "healthy": healthy_report,
    "profile of 2,000 layers": huge_report,
    "run of 2,000 layers": deep_run,
    "run of 1,000,000 steps": long_run,
}


def main() -> None:
    render_html(healthy_report())  # loads the libraries and makes the script, once a process
    print(f"{'report':<26}{'MB':>7}{'write s':>9}{'paint ms':>10}{'live ms':>9}")
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        path = Path(folder) / "report.html"
        for name, build in CASES.items():
            report = build()
            began = time.perf_counter()
            page = render_html(report)
            took = time.perf_counter() - began
            path.write_text(page, encoding="utf-8")
            painted, live = [], []
            for _ in range(ROUNDS):
                tab = browser.new_page(viewport={"width": 1280, "height": 800})
                tab.goto(path.as_uri())
                tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
                tab.locator(".drawing").first.scroll_into_view_if_needed()
                tab.locator(".drawing.active").first.wait_for()
                live.append(tab.evaluate("performance.now()"))
                entries = "performance.getEntriesByType('paint').map(each => each.startTime)"
                painted.append(max(tab.evaluate(entries)))
                tab.close()
            print(
                f"{name:<26}{len(page.encode()) / 1e6:>7.2f}{took:>9.2f}"
                f"{statistics.median(painted):>10.0f}{statistics.median(live):>9.0f}"
            )


if __name__ == "__main__":
    main()
