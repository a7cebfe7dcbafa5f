"""The HTML report in a real browser: self-contained, safe, legible at every width."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from gradscope.records import Report
from gradscope.reports import render_html

CHROMIUM = Path("/usr/bin/chromium")
"""Taken where it is there; else the browser that ``playwright install chromium`` fetched."""
NAMES = ("demo", "healthy", "hostile", "huge")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = CHROMIUM if CHROMIUM.exists() else Path(playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip("no browser to test the page in: run playwright install chromium")
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


def opened(browser: Browser, html: str, folder: Path, width: int, scheme: str = "light") -> Page:
    """The page, opened from a file; it fails on any request, console message or error."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.append(request.url))
    page.goto(path.as_uri())
    assert [each for each in said if each != path.as_uri() and each != "data:,"] == []
    return page


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_narrow_and_wide_windows(
    name: str, browser: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    html = render_html(request.getfixturevalue(name))
    for width in (360, 1280):
        page = opened(browser, html, tmp_path, width)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def test_hostile_names_are_text(hostile: Report, browser: Browser, tmp_path: Path) -> None:
    page = opened(browser, render_html(hostile), tmp_path, 1280)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    text = page.inner_text("body")
    assert "<script>alert(1)</script>" in text
    assert "\\x1b[31mred\\x1b[0m" in text
    assert "{{ 7 * 7 }}" in text
    assert "long." * 60 in text
    assert page.locator("script, img, iframe, object, embed").count() == 0
    page.close()


def test_charts_have_names_and_take_the_colours_of_the_scheme(
    demo: Report, browser: Browser, tmp_path: Path
) -> None:
    html = render_html(demo)
    inks = []
    for scheme in ("light", "dark"):
        page = opened(browser, html, tmp_path, 1280, scheme)
        charts = page.get_by_role("img")
        assert charts.count() == 5
        for index in range(5):
            label = charts.nth(index).get_attribute("aria-label")
            assert label is not None
            assert len(label) > 40
        inks.append(page.evaluate("getComputedStyle(document.querySelector('svg text')).fill"))
        page.close()
    assert inks == ["rgb(29, 33, 38)", "rgb(228, 230, 232)"]


class Outline(HTMLParser):
    """Levels of headings, ids, and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "srcset", "action", "xlink:href") and value != "data:,":
                self.loads.append(f"{tag} {key}={value}")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_needs_nothing_and_is_in_order(name: str, request: pytest.FixtureRequest) -> None:
    html = render_html(request.getfixturevalue(name))
    outline = Outline()
    outline.feed(html)
    assert outline.loads == []
    assert outline.levels[0] == 1
    assert all(
        later <= level + 1 for level, later in zip(outline.levels, outline.levels[1:], strict=False)
    )
    assert len(outline.ids) == len(set(outline.ids))
    assert "<html lang=" in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_thousands_of_sites_stay_small(huge: Report) -> None:
    assert len(render_html(huge)) < 300_000


def test_numbers_at_the_ends_of_the_range_can_be_drawn(demo: Report) -> None:
    assert demo.profile is not None
    extremes = (5e-324, 1e-299, 1e299, sys.float_info.max)
    sites = tuple(
        replace(site, backward_rms=(value,), forward_rms=(value,))
        for site, value in zip(demo.profile.activations, extremes, strict=False)
    )
    assert demo.verdict is not None
    trials = tuple(replace(trial, metric=sys.float_info.max) for trial in demo.verdict.trials)
    report = replace(
        demo,
        profile=replace(demo.profile, sites=sites),
        verdict=replace(demo.verdict, trials=trials, profile=None),
    )
    assert "1e-299" in render_html(report)
