"""What a reader sees of two reports side by side, and in which order.

Whether B is worse comes first, in words; then finding by finding, layer by layer, and at last what
A and B are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from gradscope.records import Finding, Report, Source
from gradscope.reports.comparing.headline import are_of_one_model, headline
from gradscope.reports.comparing.places import place_blocks
from gradscope.reports.comparing.runs import run_blocks
from gradscope.reports.comparing.side_by_side import (
    FindingPair,
    Parameters,
    PictureKind,
    Side,
    SideBySide,
    Standing,
)
from gradscope.reports.nodes import (
    Block,
    Cell,
    Column,
    Document,
    Entry,
    Items,
    Mark,
    Names,
    Paragraph,
    Section,
    Table,
    Tone,
)
from gradscope.reports.wording import (
    SEVERITY,
    each_string,
    listed,
    number,
    sentence,
    shortened,
    visible,
)

__all__ = ["compare_view"]

_NAMES_SHOWN = 6
_SITES_SHOWN = 4
_LONGEST_NAME = 120

_MARKS = {
    Standing.NEW: Mark("✗", "new", Tone.BAD),
    Standing.WORSE: Mark("✗", "worse", Tone.BAD),
    Standing.STRONGER: Mark("▲", "stronger", Tone.WARN),
    Standing.SAME: Mark("=", "same", Tone.PLAIN),
    Standing.WEAKER: Mark("=", "weaker", Tone.PLAIN),
    Standing.UNCHECKED: Mark("?", "unchecked", Tone.WARN),
    Standing.BETTER: Mark("✓", "better", Tone.GOOD),
    Standing.GONE: Mark("✓", "gone", Tone.GOOD),
}
_ORDER = (
    *(Standing.NEW, Standing.WORSE, Standing.GONE, Standing.BETTER),
    *(Standing.UNCHECKED, Standing.STRONGER, Standing.WEAKER, Standing.SAME),
)
"""What changed comes before what did not."""
_NEW_FOR_INFO = Mark("●", "new", Tone.MUTED)

_SOURCES = {
    Source.MEASURED: "a run on its own data",
    Source.SYNTHETIC: "a run on made-up inputs",
    Source.OPTIMIZER_STATE: "the optimizer's state",
    Source.WEIGHTS: "the weights alone",
}
_READ = (Source.OPTIMIZER_STATE, Source.WEIGHTS)


def compare_view(comparison: SideBySide, reports: tuple[Report, Report] | None = None) -> Document:
    """The comparison as a tree of what to show; see :mod:`gradscope.reports.nodes`.

    Args:
        comparison: what is shown.
        reports: A and B themselves; of two training runs their curves are then drawn.
    """
    a, b = comparison.a, comparison.b
    picture = comparison.picture
    measured = picture is not None and picture.kind is PictureKind.MEASURED
    sections = (
        Section("Findings of A and B", tuple(_findings(comparison))),
        Section("Over training", _runs(reports)),
        Section("Signal over depth" if measured else "Layer by layer", tuple(_layers(comparison))),
        Section("What A and B are", (_sides(a, b),)),
    )
    document = Document(
        title="A: {}, B: {}".format(*_apart(a.name, b.name)),
        about=f"{a.kind} against {b.kind}; {_examined(a, b)}",
        headline=headline(comparison),
        sections=tuple(section for section in sections if section.blocks),
    )
    # In the end and for all of them, so that no builder of nodes can forget to.
    shown: Document = each_string(document, visible)
    return shown


def _runs(reports: tuple[Report, Report] | None) -> tuple[Block, ...]:
    runs = [report.profile.training for report in reports or () if report.profile is not None]
    a, b = runs if len(runs) == 2 else (None, None)
    return () if a is None or b is None else tuple(run_blocks(a, b))


def _apart(a: str, b: str) -> tuple[str, str]:
    """Both paths from where they part; the end tells what both are."""
    before, after = PurePath(a).parts, PurePath(b).parts
    same = 0
    while same < min(len(before), len(after)) - 1 and before[same] == after[same]:
        same += 1
    return str(PurePath(*before[same:])), str(PurePath(*after[same:]))


def _examined(a: Side, b: Side) -> str:
    if a.tool == b.tool:
        return f"both examined by {a.tool.name} {a.tool.version}"
    return (
        f"A examined by {a.tool.name} {a.tool.version}, B by {b.tool.name} {b.tool.version}, "
        "whose rules may differ"
    )


# --- The findings -----------------------------------------------------------------------------


def _findings(comparison: SideBySide) -> Iterator[Block]:
    pairs = sorted(comparison.findings, key=lambda pair: _ORDER.index(pair.standing))
    if pairs:
        yield _findings_table(pairs)
    entries = [
        Entry(pair.code, said, _mark(pair))
        for pair in pairs
        if (said := " ".join(_said(pair, are_of_one_model(comparison))))
    ]
    if entries:
        yield Items(tuple(entries))
    if comparison.left_out:
        codes = listed(comparison.left_out)
        yield Paragraph(f"Not compared, as these rules are left out here: {codes}.", Tone.MUTED)


def _mark(pair: FindingPair) -> Mark:
    if pair.standing is Standing.NEW and not pair.is_regression:
        return _NEW_FOR_INFO
    return _MARKS[pair.standing]


def _findings_table(pairs: Sequence[FindingPair]) -> Table:
    rows = []
    for pair in pairs:
        mark = _mark(pair)
        rows.append(
            (
                Cell(f"{mark.symbol} {mark.word}", mark.tone),
                Cell(f"{pair.code} {pair.name}"),
                *_seen(pair.a, pair.measure),
                *_seen(pair.b, pair.measure),
                Cell(_measure(pair.b or pair.a, pair.measure), Tone.MUTED),
            )
        )
    caption = ""
    if any(pair.standing in (Standing.STRONGER, Standing.WEAKER) for pair in pairs):
        caption = "Stronger, weaker: as severe, but further beyond the limit, or nearer to it."
    return Table(
        (
            Column("B is"),
            Column("finding"),
            Column("A"),
            Column("value", numeric=True),
            Column("B"),
            Column("value", numeric=True),
            Column("measure", name=True, optional=True),
        ),
        tuple(rows),
        caption,
    )


def _seen(finding: Finding | None, measure: str | None) -> tuple[Cell, Cell]:
    if finding is None:
        return Cell("–", Tone.MUTED), Cell("–", Tone.MUTED)
    mark = SEVERITY[finding.severity]
    evidence = finding.evidence.get(_measure(finding, measure))
    return Cell(mark.word, mark.tone), Cell(number(evidence.value) if evidence else "–")


def _measure(finding: Finding | None, measure: str | None) -> str:
    """What is compared, else what the finding rests on first."""
    if measure is not None or finding is None:
        return measure or ""
    return next(iter(finding.evidence), "")


def _said(pair: FindingPair, one_model: bool) -> Iterator[str]:
    """What the table does not tell: the finding in words, and where it is no longer the same."""
    a, b = pair.a, pair.b
    if a is None or b is None:
        if b is not None:
            yield sentence(b.message)
            if pair.unchecked_in_a:
                yield "A was not checked for it."
        if a is not None:
            yield f"In A: {sentence(a.message)}"
            if pair.standing is Standing.UNCHECKED:
                yield "B could not be checked for it."
        return
    if pair.standing is not Standing.SAME:
        yield sentence(b.message)
    if pair.measure is None and a.evidence and b.evidence:
        yield (
            f"The values are of two kinds and are not compared: {_measure(a, None)} in A, "
            f"{_measure(b, None)} in B."
        )
    elif one_model:
        if appeared := [site for site in b.sites if site not in a.sites]:
            yield f"In B also at {_sites(appeared)}."
        if left := [site for site in a.sites if site not in b.sites]:
            yield f"In B no longer at {_sites(left)}."


def _sites(names: Sequence[str]) -> str:
    shown = [shortened(visible(name), _LONGEST_NAME // 2) for name in names[:_SITES_SHOWN]]
    more = len(names) - len(shown)
    return f"{', '.join(shown)} and {more:,} more" if more else listed(shown)


# --- The layers -------------------------------------------------------------------------------


def _layers(comparison: SideBySide) -> Iterator[Block]:
    a, b, parameters = comparison.a, comparison.b, comparison.parameters
    if comparison.picture is not None and comparison.picture.places:
        yield from place_blocks(comparison.picture)
    elif a.source is None or b.source is None:
        missing = listed([name for name, side in (("A", a), ("B", b)) if side.source is None])
        yield Paragraph(f"{missing} tells nothing of layers: only the findings are compared.")
    elif are_of_one_model(comparison) and (a.source in _READ) is not (b.source in _READ):
        read, measured = ("A", "B") if a.source in _READ else ("B", "A")
        yield Paragraph(
            f"{read} was read from a checkpoint and {measured} was measured: the numbers of their "
            "layers are of two kinds, and only the findings are compared."
        )
    if parameters is not None:
        yield from _names(parameters)


def _names(parameters: Parameters) -> Iterator[Block]:
    if not parameters.shared:
        yield Paragraph(
            "No parameter has the same name in both: these are different models, and only their "
            "findings are compared."
        )
    for label, names in (
        ("only in A", parameters.only_a),
        ("only in B", parameters.only_b),
        ("of another shape in B", parameters.reshaped),
    ):
        if names:
            yield Names(label, names[:_NAMES_SHOWN], max(0, len(names) - _NAMES_SHOWN))


# --- What they are ----------------------------------------------------------------------------


def _sides(a: Side, b: Side) -> Table:
    rows = [("file", a.name, b.name)]
    if a.target != a.name or b.target != b.name:
        rows.append(("a report of", _reported(a), _reported(b)))
    rows += [
        ("kind", a.kind, b.kind),
        ("parameters", number(a.parameters), number(b.parameters)),
        ("numbers from", _source(a), _source(b)),
        ("steps", _steps(a), _steps(b)),
        ("optimizer", a.optimizer or "–", b.optimizer or "–"),
    ]
    if a.loss is not None or b.loss is not None:
        rows.append(("loss at the end", number(a.loss), number(b.loss)))
    return Table(
        (Column("about"), Column("A"), Column("B")),
        tuple(
            (
                Cell(what, Tone.MUTED),
                *(Cell(shortened(visible(text), _LONGEST_NAME)) for text in both),
            )
            for what, *both in rows
        ),
    )


def _reported(side: Side) -> str:
    return side.target if side.target != side.name else "–"


def _source(side: Side) -> str:
    return "–" if side.source is None else _SOURCES[side.source]


def _steps(side: Side) -> str:
    if side.steps is None:
        return "–" if side.source is None else "not stored"
    return number(side.steps) if side.source in _READ else f"{number(side.steps)} measured"
