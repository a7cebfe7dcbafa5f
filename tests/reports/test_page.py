"""What a reader does with the page: zooming, choosing a layer, copying; by pointer and by key."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page

from gradscope.reports.drawing.interactive import compact
from tests.reports.pages import draw_all, launched, opened, unfold


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def drag(page: Page, drawing: Locator, begin: float, end: float) -> None:
    """Drags over a drawing, from one share of its width to another."""
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + begin * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (begin + end) / 2 * box["width"], y)
    page.mouse.move(box["x"] + end * box["width"], y)
    page.mouse.up()


def ticks(drawing: Locator) -> list[str]:
    return drawing.locator(".live svg .role-axis-label text").all_inner_texts()


@pytest.mark.parametrize("name", ["made", "run"])
def test_all_charts_of_a_run_are_zoomed_together(
    name: str, browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, name, tmp_path) as page:
        draw_all(page)
        lines = page.locator(".linked > .charts .drawing:has(.live svg)").first
        heat = page.locator(".linked > .charts .drawing:has(canvas)").first
        pixels = "document.querySelector('.linked canvas').toDataURL()"
        whole = ticks(lines), page.evaluate(pixels)
        status = page.locator(".tools [role=status]")
        reset = page.get_by_role("button", name="Show the whole run")
        assert reset.is_disabled()

        drag(page, lines, 0.4, 0.7)
        page.wait_for_function(f"before => {pixels} !== before", arg=whole[1])
        assert status.inner_text().startswith("Steps ")
        assert ticks(lines) != whole[0]
        reset.click()
        page.wait_for_function(f"before => {pixels} === before", arg=whole[1])
        assert ticks(lines) == whole[0]

        drag(page, heat, 0.5, 0.8)
        page.wait_for_function(f"before => {pixels} !== before", arg=whole[1])
        heat.dblclick(position={"x": 300, "y": 60})
        page.wait_for_function(f"before => {pixels} === before", arg=whole[1])

        page.get_by_role("button", name="Zoom in").focus()
        page.keyboard.press("Enter")
        page.wait_for_function(f"before => {pixels} !== before", arg=whole[1])
        nearer = status.inner_text()
        page.get_by_role("button", name="Later steps").press("Enter")
        assert status.inner_text() != nearer
        page.get_by_role("button", name="Zoom out").press("Enter")
        page.get_by_role("button", name="Zoom out").press("Enter")
        assert reset.is_disabled()


def words(page: Page) -> list[str]:
    return page.locator(".layer [aria-live=polite] li").all_inner_texts()


def test_a_row_of_a_heat_map_leads_to_its_history(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "made", tmp_path) as page:
        draw_all(page)
        heat = page.locator(".drawing:has(canvas)")
        before = page.evaluate("document.querySelector('canvas').toDataURL()")
        # 16 pixels a row, under the legend.
        heat.click(position={"x": 400, "y": 36})
        page.locator(".layer li").first.wait_for()
        first, second = words(page)
        assert first.startswith(
            "Backward signal: first 1 at step 0, last ∞ at step 900; least 0 at"
        )
        assert "Not finite at 1 of 10 times." in first
        assert second == "Dead: 50 % throughout."
        assert page.locator(".layer select").input_value() == "0"
        page.locator(".layer .drawing.active").nth(1).wait_for()
        assert page.locator(".layer .drawing").first.get_attribute("aria-label") == first
        page.wait_for_function(
            "before => document.querySelector('canvas').toDataURL() !== before", arg=before
        )


def test_a_point_leads_to_its_layer(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "made", tmp_path) as page:
        draw_all(page)
        marks = page.locator(".drawing .live .mark-symbol.role-mark path")
        point = marks.nth(2).bounding_box()
        assert point is not None
        page.mouse.move(point["x"] + 4, point["y"] + 4)
        page.locator(".tip b").wait_for()
        assert page.locator(".tip").inner_text().split("\n") == [
            "layer2.relu",
            "layer0.relu: 0.01",
            "between 0.005 and 0.02",
        ]
        page.mouse.down()
        page.mouse.up()
        page.locator(".layer li").first.wait_for()
        assert page.locator(".layer select").input_value() == "2"
        assert page.locator(".layer figcaption").first.inner_text().startswith("layer2.relu")


@pytest.mark.parametrize(("name", "least"), [("huge", 20), ("run", 30), ("many", 300), ("demo", 5)])
def test_a_layer_is_chosen_by_key(name: str, least: int, browser: Browser, tmp_path: Path) -> None:
    with opened(browser, name, tmp_path) as page:
        select = page.get_by_label("History of a layer").first
        assert select.locator("option").count() > least
        select.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert select.input_value() == "1"
        assert len(words(page)) >= 1
        assert all(
            " at step " in each or "throughout" in each or "not measured" in each
            for each in words(page)
        )
        page.locator(".layer .drawing.active").first.wait_for()
        select.select_option(index=0)
        assert words(page) == []


def test_code_is_copied(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "made", tmp_path) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "gradscope fix made.py"


def test_the_first_key_offers_to_skip_to_the_report(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, "demo", tmp_path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.tagName") == "MAIN"


@pytest.mark.parametrize("name", ["demo", "hostile", "run"])
def test_axe_finds_no_serious_violation(name: str, browser: Browser, tmp_path: Path) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    def violations(page: Page) -> list[Any]:
        found: dict[str, Any] = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        return [
            (each["id"], [node["html"][:200] for node in each["nodes"]])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    with opened(browser, name, tmp_path) as page:
        page.evaluate(axe)
        assert violations(page) == []
        unfold(page)
        draw_all(page)
        page.locator(".layer select").first.select_option(index=1)
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")
        assert violations(page) == []


def test_numbers_are_written_as_short_as_three_digits_can_be() -> None:
    values = (0.0, 1.0, 0.123, 1.23456e-9, 100000.0, -2.5, float("nan"), float("inf"))
    text = compact(values)
    assert text == "0 1 .123 123e-11 1e5 -2.5 NaN Infinity"
    assert [float(each) for each in text.split()][:6] == [0.0, 1.0, 0.123, 1.23e-9, 1e5, -2.5]
