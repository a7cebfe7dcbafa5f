"""``gradscope scan``: profile, diagnose, report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout

import typer

from gradscope.cli import options, scan_many, scan_one
from gradscope.cli.options import FailOn, Format

NAME = "scan"


def run(
    targets: options.Targets,
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
    baseline: options.Baseline = None,
    trust_pickle: options.TrustPickle = False,
) -> None:
    """Find where the gradient of a model vanishes or explodes, and why.

    Several checkpoints, or a folder of them, are one run: what was found is of the newest, and the
    report says since when. Exits 0 when nothing at or above --fail-on was found (with --baseline:
    nothing that it has not), 1 when something was, 3 when a target could not be read.
    """
    from gradscope.cli.baseline import held_against, opened_baseline
    from gradscope.cli.progress import progress_bar
    from gradscope.cli.writing import check_writable, with_command, write
    from gradscope.config import find_settings

    targets = list(dict.fromkeys(targets))
    if model is None:
        scan_many.help_out(targets)
    settings = find_settings()
    detail = options.detail(quiet, verbose)
    before = None if baseline is None else opened_baseline(baseline)
    if output is not None:
        check_writable(output, folder=False)
    # stdout is the report's alone: what the subject's code prints goes where progress goes.
    with redirect_stdout(sys.stderr), progress_bar(quiet) as progress:
        whole = None
        if model is None:
            whole = scan_many.scan_run(
                targets,
                given={"data": data, "loss": loss, "input_shape": input_shape, "device": device},
                trust_pickle=trust_pickle,
                select=options.codes(select),
                ignore=options.codes(ignore),
                settings=settings,
                progress=progress,
            )
        if whole is not None:
            report = whole
        else:
            report = scan_one.scan_one(
                options.one(targets),
                model=model,
                data=data,
                loss=loss,
                input_shape=input_shape,
                device=device,
                steps=steps,
                seed=seed,
                trust_pickle=trust_pickle,
                select=options.codes(select),
                ignore=options.codes(ignore),
                settings=settings,
                progress=progress,
            )
    if baseline is not None and before is not None:
        report = held_against(report, before, baseline)
    write(with_command(report), form, output, detail)
    raise typer.Exit(scan_many.tell_unread(report) or options.exit_status(report, fail_on))
