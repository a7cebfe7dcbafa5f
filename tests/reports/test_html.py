"""The HTML report in a real browser: self-contained, safe, legible at every width."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from gradscope.records import Report
from gradscope.reports import render_html
from gradscope.reports.html import render_page
from gradscope.reports.nodes import Document, Headline, Mark, Paragraph, Section, Tone
from tests.reports.pages import EVIL, WIDTHS, draw_all, html, launched, opened, unfold

NAMES = ("demo", "healthy", "hostile", "huge", "run")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_narrow_and_wide_windows(name: str, browser: Browser, tmp_path: Path) -> None:
    with opened(browser, name, tmp_path) as page:
        unfold(page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            draw_all(page)
            # Drawings take the new width a moment later.
            page.wait_for_function(
                "[...document.querySelectorAll('.drawing')].every(e => Math.abs("
                "e.querySelector('.live').scrollWidth - e.clientWidth) <= 1)"
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", ["demo", "run"])
def test_links_lead_to_sections_and_unfold_them(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, name, tmp_path) as page:
        links = page.locator("nav a")
        assert links.count() > 3
        for link in links.all():
            link.click()
            target = page.locator(link.get_attribute("href") or "")
            assert target.is_visible()
            page.wait_for_function(
                "e => e.getBoundingClientRect().top < innerHeight", arg=target.element_handle()
            )
        page.locator("details.section > summary").last.click()
        assert not target.is_visible()
        page.keyboard.press("Enter")
        assert target.is_visible()
    with opened(browser, name, tmp_path, anchor="#environment-and-target") as page:
        assert page.locator("#environment-and-target").is_visible()


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "hostile", tmp_path) as page:
        unfold(page)
        text = page.inner_text("body")
        assert "<script>alert(1)</script>" in text
        assert "\\x1b[31mred\\x1b[0m" in text
        assert "{{ 7 * 7 }}" in text
        assert "long." * 60 in text
        assert page.locator("main script:not([type='application/json'])").count() == 0
        assert page.locator("img, iframe, object, embed").count() == 0


def test_hostile_names_are_text_where_a_script_shows_them(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "evil", tmp_path) as page:
        draw_all(page)
        options = page.locator(".layer option").all_inner_texts()[1:]
        assert options[:3] == list(EVIL[:3])
        page.locator(".drawing").last.hover(position={"x": 400, "y": 36})
        page.locator(".tip b").wait_for()
        assert page.inner_text(".tip b") == EVIL[0]
        for at, name in enumerate(EVIL):
            page.select_option(".layer select", index=at + 1)
            assert name[:20] in page.locator(".layer figcaption").first.inner_text()
        page.locator(".layer .drawing.active").first.wait_for()
        assert page.locator("img, iframe, object, embed, a[href^=javascript]").count() == 0


def test_no_script_but_its_own_runs(browser: Browser, tmp_path: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html("made"))
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert len(re.findall(r"'sha256-[^']{44}'", policy[1])) == 3
    assert "unsafe-eval" not in policy[1]
    path = tmp_path / "page.html"
    path.write_text(html("made"), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator(".drawing.active").first.wait_for()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{ textContent: 'window.hit = 1' }))"
    )
    assert page.evaluate("window.hit") is None
    # Later, because what the browser is told to evaluate is above the law.
    made = page.evaluate(
        """new Promise(done => setTimeout(() => {
            try { done(new Function("return 1")()); } catch (error) { done(error.name); }
        }))"""
    )
    assert made == "EvalError"
    page.close()


def test_data_cannot_end_its_element() -> None:
    data = re.findall(r'<script type="application/json">(.*?)</script>', html("evil"), re.DOTALL)
    assert len(data) == 1
    assert not re.search("[<>&\u2028\u2029]", data[0])
    assert "\\u003cimg src=x" in data[0]


def test_a_page_without_figures_has_no_script() -> None:
    headline = Headline(Mark("✓", "healthy", Tone.GOOD), "Fine.")
    page = render_page(Document("a", "b", headline, (Section("c", (Paragraph("d"),)),)))
    assert "<script" not in page
    assert "script-src" not in page


def test_charts_have_names_and_follow_the_scheme_while_open(
    browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, "run", tmp_path) as page:
        draw_all(page)
        drawings = page.locator(".drawing").all()
        assert len(drawings) > 3
        for drawing in drawings:
            assert drawing.get_attribute("role") == "img"
            assert len(drawing.get_attribute("aria-label") or "") > 40
        ink = "getComputedStyle(document.querySelector('.live svg text')).fill"
        canvas = "document.querySelector('canvas').toDataURL()"
        seen = page.evaluate(ink), page.evaluate(canvas)
        assert seen[0] == "rgb(29, 33, 38)"
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"before => {canvas} !== before", arg=seen[1])
        assert page.evaluate(ink) == "rgb(228, 230, 232)"
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"before => {canvas} === before", arg=seen[1])


def test_what_is_printed_is_whole_and_needs_no_script(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "run", tmp_path) as page:
        draw_all(page)
        page.emulate_media(media="print")
        assert page.locator(".drawing > svg").first.is_visible()
        assert not page.locator(".live").first.is_visible()
        assert not page.locator("nav").is_visible()
        assert page.locator("#environment-and-target").is_visible()
    without = browser.new_context(java_script_enabled=False).new_page()
    without.goto((tmp_path / "run.html").as_uri())
    assert without.locator(".drawing > svg").count() >= 4
    assert without.locator(".drawing > svg").first.is_visible()
    without.context.close()


class Outline(HTMLParser):
    """Levels of headings, ids, and everything that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key == "href" and (value or "").startswith("#"):
                self.links.append((value or "")[1:])
            elif key in ("src", "href", "srcset", "action", "xlink:href") and value != "data:,":
                self.loads.append(f"{tag} {key}={value}")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_needs_nothing_and_is_in_order(name: str) -> None:
    page = html(name)
    outline = Outline()
    outline.feed(page)
    assert outline.loads == []
    assert set(outline.links) <= set(outline.ids)
    assert outline.levels[0] == 1
    assert all(
        later <= level + 1 for level, later in zip(outline.levels, outline.levels[1:], strict=False)
    )
    assert len(outline.ids) == len(set(outline.ids))
    assert "<html lang=" in page
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "@import" not in without_scripts
    assert not re.search(r"url\((?!#)", without_scripts)


@pytest.mark.parametrize("name", ["huge", "run"])
def test_thousands_of_sites_and_a_million_steps_stay_small(name: str) -> None:
    assert len(html(name).encode()) < 5_000_000


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
