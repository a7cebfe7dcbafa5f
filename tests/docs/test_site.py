"""The documentation as a built site: complete, linked, and nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.docs.built import Parsed, clicks, parse, target
from tests.reports.pages import launched

ROOT = Path(__file__).parent.parent.parent
LOOKED_AT = (
    "index.html",
    "start.html",
    "rules/vanishing-gradient.html",
    "derivatives/relu-logistic.html",
    "experiments/derivative-search.html",
    "reference/cli.html",
    "reference/api.html",
    "reference/report.html",
)
EXTERNAL = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``make docs`` builds it; any warning fails."""
    site = tmp_path_factory.mktemp("site").resolve()
    subprocess.run(["make", "-s", "links"], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Parsed]:
    return parse(site)


def test_every_page_is_two_clicks_away(site: Path, pages: dict[Path, Parsed]) -> None:
    sources = [
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.relative_to(ROOT / "docs").parts[0] != "changelog"
    ]
    assert len(pages) == len(sources) + 2, "the pages, the changelog and the start of its section"
    away = clicks(pages, site / "index.html")
    assert [path for path in pages if path not in away] == []
    assert [path for path, count in away.items() if count > 2] == []


def test_every_link_and_anchor_is_there(site: Path, pages: dict[Path, Parsed]) -> None:
    broken = []
    for page, parsed in pages.items():
        for link in parsed.links:
            to = target(page, link)
            if to is None:
                continue
            path, anchor = to
            known = pages[path].anchors if path in pages else {""}
            if not path.is_file() or (anchor and anchor not in known):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_a_page_loads_files_of_the_site_alone(site: Path, pages: dict[Path, Parsed]) -> None:
    fetched = {(page, each) for page, parsed in pages.items() for each in parsed.fetched}
    assert fetched
    assert [each for _, each in fetched if EXTERNAL.match(each)] == []
    missing = [
        (page, each)
        for page, each in fetched
        if not each.startswith("data:") and not (page.parent / each.partition("#")[0]).is_file()
    ]
    assert missing == []
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        loads = re.findall(r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", style.read_text())
        assert [each for pair in loads for each in pair if EXTERNAL.match(each)] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window that fails on a message, an error or a request that is for no file."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            said.append(request.url)
            if not request.url.startswith(("file:", "data:", "blob:", "about:"))
            else None
        ),
    )
    yield page
    page.close()
    assert said == []


@pytest.mark.parametrize("name", LOOKED_AT)
def test_a_page_fits_its_window(name: str, site: Path, page: Page) -> None:
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto((site / name).as_uri())
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_search_works_from_disk(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator(".md-search__input").click()
    page.get_by_text("Type to start searching").wait_for(timeout=15_000)  # once the index is read
    page.locator(".md-search__input").press_sequentially("vanishing")
    found = page.locator(".md-search-result__link[href*='rules/vanishing-gradient.html']")
    found.first.wait_for(timeout=15_000)
    found.first.click()
    assert page.locator("h1").inner_text().startswith("GS101 vanishing-gradient")
