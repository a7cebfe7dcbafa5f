"""``gradscope fix``: scan, prescribe, try, prove, and hand back the repair."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradscope.cli import options
from gradscope.cli.options import FailOn, Format

if TYPE_CHECKING:
    from gradscope.pipeline import Repair
    from gradscope.reports.nodes import Detail

NAME = "fix"

Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where report, plan and model are written.")
]
Unsafe = Annotated[
    bool,
    typer.Option(
        "--unsafe", help="Also remedies that change the forward, the weights or the structure."
    ),
]
RemedyNames = Annotated[
    list[str] | None, typer.Option("--remedy", metavar="NAME", help="Try this remedy only; repeat.")
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        metavar="SECONDS",
        help="What the trials may take, roughly; the proof comes on top.",
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds", metavar="K", help="Matched seeds, 5 or more; by default what the budget allows."
    ),
]

DEFAULT_BUDGET = 120.0
"""As gradscope.verify.DEFAULT_BUDGET, which cannot be imported without torch; a test compares."""


def run(
    target: options.Target,
    out: Out,
    unsafe: Unsafe = False,
    remedy: RemedyNames = None,
    budget: Budget = DEFAULT_BUDGET,
    seeds: Seeds = None,
    model: options.Model = None,
    data: options.Data = None,
    loss: options.Loss = None,
    input_shape: options.InputShape = None,
    steps: options.Steps = options.DEFAULT_STEPS,
    select: options.Select = None,
    ignore: options.Ignore = None,
    fail_on: options.Fail = FailOn.WARNING,
    seed: options.Seed = 0,
    device: options.Device = None,
    form: options.OutputFormat = Format.TEXT,
    output: options.Output = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    trust_pickle: options.TrustPickle = False,
) -> None:
    """Repair a model that does not learn, and prove that it helped.

    Writes report.html, report.json, plan.json and, where there is one, repaired.pt into --out.
    Exits 0 when it is fixed or nothing is to fix, else 1 if a finding is at or above --fail-on.
    """
    from gradscope.cli.progress import progress_bar
    from gradscope.cli.writing import check_writable
    from gradscope.config import find_settings
    from gradscope.pipeline import repair

    settings = find_settings()
    detail = options.detail(quiet, verbose)
    check_writable(out, folder=True)
    if output is not None:
        check_writable(output, folder=False)
    # stdout is the report's alone: what the subject's code prints goes where progress goes.
    with redirect_stdout(sys.stderr), progress_bar(quiet) as progress:
        subject = options.subject_of(
            target,
            model=model,
            data=data,
            loss=loss,
            input_shape=input_shape,
            device=device,
            trust_pickle=trust_pickle,
        )
        result = repair(
            subject,
            unsafe=unsafe,
            budget=budget,
            seeds=seeds,
            only=remedy or (),
            steps=steps,
            seed=seed,
            select=options.codes(select),
            ignore=options.codes(ignore),
            settings=settings,
            progress=progress,
        )
    finish(result, out, form, output, fail_on, detail)


def finish(
    result: Repair,
    out: Path,
    form: Format,
    output: Path | None,
    fail_on: FailOn,
    detail: Detail | None = None,
) -> None:
    """Writes what a repair left, and exits with its status."""
    from gradscope.cli.writing import with_command, write
    from gradscope.reports.nodes import Detail

    result = replace(result, report=with_command(result.report))
    write(result.report, form, output, detail)
    where = written(result, out)
    if detail is not Detail.QUIET:
        typer.echo(where, err=form is not Format.TEXT)
    raise typer.Exit(options.fix_status(result.report, fail_on))


def written(result: Repair, out: Path) -> str:
    """Writes all files of a repair; returns the lines that say where they are."""
    from gradscope.cli.writing import write_file
    from gradscope.records import Plan
    from gradscope.reports import render_html, render_json, render_plan

    report = result.report
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "report.html", render_html(report))
    write_file(out / "report.json", render_json(report))
    write_file(out / "plan.json", render_plan(report.plan or Plan()))
    lines = [
        "Files",
        f"  {out / 'report.html'}  the report as a page",
        f"  {out / 'report.json'}  the report for programs",
        f"  {out / 'plan.json'}    what was done, to do it again",
    ]
    if result.model is not None:
        import io

        import torch

        buffer = io.BytesIO()
        torch.save(result.model.state_dict(), buffer)
        write_file(out / "repaired.pt", buffer.getvalue())
        lines.append(f"  {out / 'repaired.pt'}  state_dict of the repaired model after one trial")
    else:
        # One of an earlier run would be taken for this one's.
        (out / "repaired.pt").unlink(missing_ok=True)
    return "\n".join(lines)
