"""Names that attack whoever reads them are shown as text, in all six formats."""

from __future__ import annotations

import json
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright
from rich.console import Console

from gradscope.records import SCHEMA_VERSION as VERSION
from gradscope.records import (
    Change,
    Finding,
    Invariant,
    Measure,
    ParameterProfile,
    Plan,
    Prescription,
    Profile,
    Refusal,
    Report,
    Role,
    Severity,
    SiteProfile,
    Skipped,
    Source,
    Status,
    Target,
    Tool,
    Verdict,
)
from gradscope.reports import (
    read_json,
    render_html,
    render_json,
    render_junit,
    render_markdown,
    render_sarif,
    render_terminal,
    view,
)
from gradscope.reports.nodes import Detail
from gradscope.reports.wording import visible
from tests.reports.rendered_markdown import shown

CHROMIUM = Path("/usr/bin/chromium")
ATTACKS = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror=alert(1)>',
    "style": "</style></title></svg><b>bold",
    "terminal": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J",
    "bidi": "evil\u202egnp.exe\u2066\u200b",
    "hebrew": "שלום.relu",
    "long": "layer_" * 83 + "99",
    "emoji": "🔥👩\u200d🚀.relu",
    "nul": "a\0b",
    "surrogate": "caf\udce9.relu",
    "backticks": "`a` ``b`` ```",
    "pipes": "a|b \\| c\\",
    "cdata": "]]><!-- --><![CDATA[",
    "template": "${{ github.token }} {{ 7 * 7 }}",
    "command": "::error::bad ::set-output name=a::b",
    "lines": "first\n::error::second\r\n# third\u2028- fourth",
    "markdown": "**b** _i_ [x](javascript:alert(1)) ![i](http://a.b/c.png) @someone #1 <http://a.b>",
    "link": "](javascript:alert(1)) [a](1)",
    "markup": "[bold red]markup[/]",
    "entity": "&lt;script&gt; &amp; &#x41;",
}
PLACES = SITE, PARAMETER, MESSAGE, TARGET, VALUE, KEY, SKIPPED, REFUSED, PLANNED, HELD = range(10)
BENIGN = "layer"


def at(place: int, name: str) -> str:
    """The name, marked with the place that it stands at; what begins a line is the name."""
    return f"{name}·{place}"


def reported(name: str) -> Report:
    """A report in which the name stands wherever a model, a file or a machine puts one."""
    site = SiteProfile(
        at(SITE, name),
        Role.ACTIVATION,
        "ReLU",
        0,
        (8, 4),
        1,
        False,
        *((0.5,), (0.5,), (0.5,), (1e-3,), (0,), (0,)),
        8,
        0.5,
        0.0,
        None,
    )
    parameter = ParameterProfile(at(PARAMETER, name), (4, 4), True, True, 1.0, 0, (1e-9,), ())
    profile = Profile(Source.MEASURED, 8, (1.0,), (1.0,), (site,), (parameter,), "SGD", None, 0)
    finding = Finding(
        "GS201",
        "dead-units",
        Severity.ERROR,
        (site.name, parameter.name),
        at(MESSAGE, name),
        {"share": Measure(0.5, 0.1, Source.MEASURED)},
    )
    changes = (Change.PARAMETERS,)
    planned = (at(PLANNED, name),)
    plan = Plan((Prescription("re-initialise", changes, planned, {"a": name}, "GS201", name),))
    return Report(
        VERSION,
        Tool("gradscope", "1.0"),
        Target(at(TARGET, name), "subject file", 16),
        {"device": at(VALUE, name), at(KEY, name): "1"},
        profile,
        (finding,),
        plan,
        Verdict(Status.UNVERIFIED, name, invariants=(Invariant(at(HELD, name), True, name),)),
        (Skipped(at(SKIPPED, name), name),),
        (Refusal(at(REFUSED, name), name, (site.name,)),),
    )


def wanted(name: str, *places: int) -> list[str]:
    return [visible(at(place, name)) for place in places]


@pytest.fixture(params=ATTACKS)
def name(request: pytest.FixtureRequest) -> str:
    return ATTACKS[request.param]


def printed(report: Report, width: int) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    render_terminal(view(report), console, Detail.VERBOSE)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_terminal_prints_what_cannot_steer_it(name: str) -> None:
    report = reported(name)
    # Where lines are broken is another matter; and what is as long as that loses its middle.
    wide, narrow = printed(report, 1000), printed(report, 80)
    text = "".join(wide.split())
    for each in wanted(name, *PLACES):
        shortest = "".join(each.split())[: 20 if name == ATTACKS["long"] else None]
        assert shortest in text or shortest[:1].upper() + shortest[1:] in text
    steering = {
        character
        for character in wide + narrow
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl")
    }
    assert steering == set()


def test_markdown_shows_the_names_and_no_markup(name: str) -> None:
    markdown = render_markdown(view(reported(name)))
    seen, usual = shown(markdown), shown(render_markdown(view(reported(BENIGN))))
    for each in wanted(name, *PLACES):
        assert each in seen.text or each[:1].upper() + each[1:] in seen.text
    # Nothing but code is added, and nothing is lost: the same rows, folds and headings.
    assert [tag for tag in seen.tags if tag != "code"] == [
        tag for tag in usual.tags if tag != "code"
    ]
    assert seen.links == []
    assert not re.search(r"@\w|#\d|://|javascript", seen.plain)
    # A log of GitHub Actions takes such a line for a command.
    assert not re.search(r"^\s*::", markdown, re.MULTILINE)


class Page(HTMLParser):
    """Its elements, and its text beside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.hidden = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(key for key, _ in attrs)))
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self.hidden else data


def test_the_page_shows_the_names_and_has_no_element_more(name: str) -> None:
    # Without drawings, which take time; the browser below sees them.
    page, usual = (Page(render_html(replace(reported(n), profile=None))) for n in (name, BENIGN))
    for each in wanted(name, *PLACES):
        assert each in page.text or each[:1].upper() + each[1:] in page.text
    assert page.tags == usual.tags


def test_json_holds_the_names_as_they_are(name: str) -> None:
    report = reported(name)
    text = render_json(report)
    assert all(character == "\n" or character.isprintable() for character in text)
    kept = name.encode("utf-8", "backslashreplace").decode()
    read = read_json(text, "report.json")
    assert read == reported(kept)
    assert render_json(read) == text


def strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from strings(value)
    elif isinstance(node, list):
        for each in node:
            yield from strings(each)


def test_sarif_holds_the_names_and_no_link(name: str) -> None:
    text = render_sarif(reported(name))
    assert text.isascii()
    log = json.loads(text)
    (result,) = log["runs"][0]["results"]
    named = [each["fullyQualifiedName"] for each in result["locations"][0]["logicalLocations"]]
    assert named == wanted(name, SITE, PARAMETER)
    said = "\n".join(strings(log))
    for each in wanted(name, MESSAGE, SKIPPED, REFUSED):
        each = each.replace("](", "] (")
        assert each in said or each[:1].upper() + each[1:] in said
    assert "](" not in result["message"]["text"]
    assert all(each == visible(each) for each in strings(log))


def test_junit_holds_the_names(name: str) -> None:
    text = render_junit(reported(name))
    assert text.isascii()
    root = ET.fromstring(text)
    usual = ET.fromstring(render_junit(reported(BENIGN)))
    assert [each.tag for each in root.iter()] == [each.tag for each in usual.iter()]
    values = [value for each in root.iter() for value in (*each.attrib.values(), each.text or "")]
    said = "\n".join(values)
    for each in wanted(name, SITE, PARAMETER, MESSAGE, TARGET, VALUE, KEY, SKIPPED, REFUSED):
        assert each in said or each[:1].upper() + each[1:] in said
    assert all(visible(value.replace("\n", "")) == value.replace("\n", "") for value in values)


def test_a_browser_runs_none_of_it(tmp_path: Path) -> None:
    """All at once: the page of a model whose every layer has one of these names."""
    first = reported(ATTACKS["script"])
    assert first.profile is not None
    sites = tuple(
        replace(first.profile.sites[0], name=each, index=index)
        for index, each in enumerate(ATTACKS.values())
    )
    findings = tuple(
        replace(first.findings[0], code=f"GS{index}", message=each, sites=(each,))
        for index, each in enumerate(ATTACKS.values())
    )
    report = replace(
        first,
        profile=replace(first.profile, sites=sites),
        findings=findings,
        environment={f"key {key}": value for key, value in ATTACKS.items()},
    )
    path = tmp_path / "report.html"
    path.write_text(render_html(report), encoding="utf-8")
    said: list[str] = []

    def note(words: Callable[[Any], str]) -> Callable[[Any], None]:
        return lambda event: said.append(words(event))

    with sync_playwright() as playwright:
        browser_path = CHROMIUM if CHROMIUM.exists() else Path(playwright.chromium.executable_path)
        if not browser_path.exists():
            pytest.skip("no browser to test the page in: run playwright install chromium")
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("console", note(lambda message: message.text))
        page.on("pageerror", note(str))
        page.on("request", note(lambda request: request.url))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        # Every layer that can be chosen is chosen once.
        for menu in page.locator("select:visible").all():
            values = menu.evaluate("menu => [...menu.options].map(each => each.value)")
            for value in values:
                menu.select_option(value)
        text = page.evaluate(
            "[...document.querySelectorAll('script, style')].forEach(each => each.remove());"
            "document.body.textContent.replace(/\\s+/g, ' ')"
        )
        images = page.locator("body img, body iframe, body object, body embed").count()
        links = page.evaluate("[...document.links].map(each => each.getAttribute('href'))")
        browser.close()
    assert [each for each in said if each not in (path.as_uri(), "data:,")] == []
    for each in ATTACKS.values():
        assert re.sub(r"\s+", " ", visible(each)) in text
    assert images == 0
    assert all(link.startswith("#") for link in links)
