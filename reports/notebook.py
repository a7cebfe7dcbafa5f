"""How records show themselves in a notebook: as the page, as Markdown and as text.

A notebook is a page of its own, with styles that must not be touched and a file that grows with
what is shown. So the report's page stands in a frame that nothing gets out of, without its script.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from html import escape
from importlib import metadata
from io import StringIO
from typing import Any

from gradscope.records import (
    SCHEMA_VERSION,
    Findings,
    Plan,
    Profile,
    Report,
    Target,
    Tool,
    Verdict,
)
from gradscope.reports.html import render_page
from gradscope.reports.markdown import render_markdown
from gradscope.reports.nodes import Document, Fold, Headline, Mark, Section, Tone
from gradscope.reports.terminal import render_terminal
from gradscope.reports.view import view
from gradscope.reports.wording import count, listed, sentence

__all__ = ["Showable", "document_of", "mimebundle"]

Showable = Report | Findings | Profile | Plan | Verdict

_WIDTH = 100
"""Columns of the text; what does not fit is scrolled sideways in a notebook."""


def mimebundle(
    record: Showable, include: Collection[str] | None = None, exclude: Collection[str] | None = None
) -> dict[str, str]:
    """What stands for the record in a notebook, by MIME type.

    Args:
        record: what is shown.
        include: the types that are wanted; all for None.
        exclude: types that are not.
    """
    made = {"text/plain": _text, "text/markdown": render_markdown, "text/html": _frame}
    wanted = [
        kind
        for kind in made
        if (include is None or kind in include) and (exclude is None or kind not in exclude)
    ]
    document = document_of(record) if wanted else None
    return {kind: made[kind](document) for kind in wanted if document is not None}


def document_of(record: Showable) -> Document:
    """What a reader sees of a report, or of a part of one that stands alone."""
    match record:
        case Report():
            return view(record)
        case Findings(profile=profile):
            report = _report(profile, skipped=record.skipped, findings=record.items)
            return _named("findings", profile, view(report))
        case Profile():
            document = view(_report(record, skipped=record.skipped))
            headline = Headline(
                Mark("●", "not diagnosed", Tone.MUTED),
                "gradscope.diagnose(profile) says what is wrong.",
                document.headline.detail,
            )
            sections = tuple(map(_unfolded, document.sections))
            return replace(
                _named("profile", record, document), headline=headline, sections=sections
            )
        case Verdict():
            document = view(_report(None, verdict=record))
        case Plan():
            document = view(_report(None, plan=record, refusals=record.refusals))
            remedies = listed(list(dict.fromkeys(one.remedy for one in record.prescriptions)))
            headline = Headline(
                Mark("●", count(len(record.prescriptions), "prescription"), Tone.MUTED),
                sentence(remedies or "nothing to apply"),
                "gradscope.apply(model, plan) applies it." if record.prescriptions else "",
            )
            document = replace(document, headline=headline)
    # Where it was made is the report's to know; that section is the last.
    kind = type(record).__name__.lower()
    return replace(document, title=kind, about=_maker(), sections=document.sections[:-1])


def _report(profile: Profile | None, **parts: Any) -> Report:
    """The parts as a report of a model that has no name."""
    parameters = sum(each.elements for each in profile.parameters) if profile else 0
    empty = {"findings": (), "plan": None, "verdict": None, "skipped": (), "refusals": ()}
    return Report(
        schema_version=SCHEMA_VERSION,
        tool=Tool("gradscope", metadata.version("torch-gradscope")),
        target=Target("model", "live model", parameters),
        environment={},
        profile=profile,
        **{**empty, **parts},
    )


def _named(kind: str, profile: Profile, document: Document) -> Document:
    about = (
        f"{count(len(profile.sites), 'site')}, {count(profile.steps, 'step')}; {_maker()}"
        if profile.measured
        else _maker()
    )
    return replace(document, title=kind, about=about)


def _maker() -> str:
    return f"made by gradscope {metadata.version('torch-gradscope')}"


def _unfolded(section: Section) -> Section:
    """The section, without the fold in which a report has the pictures of a healthy model."""
    match section.blocks:
        case (Fold(blocks=blocks),):
            return replace(section, blocks=blocks)
    return section


def _text(document: Document) -> str:
    from rich.console import Console

    text = StringIO()
    console = Console(file=text, width=_WIDTH, color_system=None, force_jupyter=False)
    render_terminal(document, console)
    return text.getvalue()


def _frame(document: Document) -> str:
    page = render_page(document, script=False)
    # Where frames are taken out, as in previews of notebooks, the first line is still there.
    headline = document.headline
    said = f"{headline.mark.symbol} {headline.mark.word}: {headline.text}"
    return (
        f'<p>{escape(said)}</p><iframe title="gradscope: {escape(document.title)}" sandbox '
        'style="width: 100%; height: 44rem; border: 1px solid #8888; resize: vertical" '
        f'srcdoc="{escape(page)}"></iframe>'
    )
