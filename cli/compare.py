"""``gradscope compare``: two saved reports, checkpoints or training runs side by side."""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradscope.cli import options
from gradscope.cli.options import Format
from gradscope.errors import UsageError
from gradscope.records import Report

if TYPE_CHECKING:
    from gradscope.config import Settings

NAME = "compare"

_INDEX = ".index.json"
"""Ending of the list of a checkpoint's files, which is JSON and no report."""

BEFORE = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="A report that was saved with --format json, a checkpoint (a file or folder), or the "
        "store of a training run.",
    ),
]
AFTER = Annotated[str, typer.Argument(metavar="B", help="The same; what is judged by A.")]


def run(
    a: BEFORE,
    b: AFTER,
    select: options.Select = None,
    ignore: options.Ignore = None,
    form: options.OutputFormat = Format.TEXT,
    output: options.Output = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    trust_pickle: options.TrustPickle = False,
) -> None:
    """Put two reports, checkpoints or runs side by side: what is new, gone, worse or better in B.

    Exits 0 when B has no warning or error that A has not, 1 when it has a new one or one that is
    more severe than in A; 2 for wrong usage, 3 when A or B cannot be loaded.
    """
    from gradscope.cli.writing import check_writable, write_document
    from gradscope.config import find_settings
    from gradscope.configured import rules_to_run
    from gradscope.reports import render_junit, render_sarif
    from gradscope.reports.comparing.compare import compare
    from gradscope.reports.comparing.view import compare_view
    from gradscope.reports.json import render_comparison

    _check(a, b, trust_pickle)
    detail = options.detail(quiet, verbose)
    settings = find_settings()
    wanted = {
        entry.rule.code
        for entry in rules_to_run(settings, options.codes(select), options.codes(ignore))
    }
    if output is not None:
        check_writable(output, folder=False)
    before, after = _loaded((a, b), wanted, settings, trust_pickle, quiet)
    if select is None:
        wanted |= _of_other_rules(before) | _of_other_rules(after)
    comparison = compare(before, after, names=(a, b), codes=wanted)
    for_programs = {
        Format.JSON: lambda: render_comparison(comparison),
        Format.SARIF: lambda: render_sarif(_judged(after, before, a, wanted)),
        Format.JUNIT: lambda: render_junit(_judged(after, before, a, wanted)),
    }
    write_document(
        lambda: compare_view(comparison, (before, after)), for_programs, form, output, detail
    )
    raise typer.Exit(int(comparison.worse))


def _judged(b: Report, a: Report, name: str, codes: Collection[str]) -> Report:
    """B for programs: the findings that are compared, those that A has marked as known."""
    from gradscope.reports.baseline import against

    findings = tuple(finding for finding in b.findings if finding.code in codes)
    limits = {code: limits for code, limits in b.limits.items() if code in codes}
    return against(replace(b, findings=findings, limits=limits), a, name)


def _is_report(path: str) -> bool:
    """Whether it is a saved report or, of which one is made at once, a run store."""
    from gradscope.store import is_run_store

    if path.endswith(".json") and not path.endswith(_INDEX):
        return not Path(path).is_dir()
    return is_run_store(path)


def _check(a: str, b: str, trust_pickle: bool) -> None:
    for path in (a, b):
        if path.endswith(".py"):
            raise UsageError(
                f"{path} is a subject file, and saved reports and checkpoints are compared: save "
                f"its report with 'gradscope scan {path} --format json --output REPORT.json'."
            )
    if trust_pickle and _is_report(a) and _is_report(b):
        raise UsageError("--trust-pickle is for checkpoints, and both A and B are reports or runs.")


def _loaded(
    paths: tuple[str, str],
    codes: Collection[str],
    settings: Settings,
    trust_pickle: bool,
    quiet: bool,
) -> tuple[Report, Report]:
    """Both reports; saved ones first, so that a damaged one is told of before long work."""
    from gradscope.cli.progress import progress_bar
    from gradscope.cli.report import opened

    found = {path: opened(path) for path in paths if _is_report(path)}
    if len(found) < len(set(paths)):
        from gradscope.pipeline import scan_checkpoint

        # stdout is the comparison's alone; trusted code in a pickle may print.
        with redirect_stdout(sys.stderr), progress_bar(quiet) as progress:
            for path in paths:
                if path not in found:
                    found[path] = scan_checkpoint(
                        path,
                        trust_pickle=trust_pickle,
                        select=codes,
                        settings=settings,
                        progress=progress,
                    )
    return found[paths[0]], found[paths[1]]


def _of_other_rules(report: Report) -> set[str]:
    """Codes of findings by rules that are not installed here: of another version or a plugin."""
    from gradscope import registry

    return {finding.code for finding in report.findings} - registry.rules().keys()
