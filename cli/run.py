"""``gradscope run``: a training script as it is, with the monitor attached."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gradscope.running import Outcome, Recorded, Script, Watcher
    from gradscope.training import Alert

NAME = "run"

SETTINGS = {"allow_interspersed_args": False}
"""Of the command: what stands behind SCRIPT is the script's."""

# typer puts its own in its place; the script is to find what was there.
_EXCEPTHOOK = sys.excepthook

# More lines than this hide the script's own.
_MOST_FINDINGS = 8


def run(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="What 'python SCRIPT' would run.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Of the script, options included."),
    ] = None,
    module: Annotated[
        bool, typer.Option("--module", "-m", help="SCRIPT is a module, as for 'python -m'.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Of several models the one to record: its variable or its class.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="FILE",
            help="Where the run is recorded; one that is there is continued. By default "
            "run.gradscope, or the first of run-2.gradscope … that is free.",
        ),
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Steps between samples.")] = 100,
    overhead: Annotated[
        float,
        typer.Option("--overhead", help="Share of the time that the monitor may take; 0 for any."),
    ] = 0.02,
) -> None:
    """Train with an unchanged script and record what a monitor sees.

    The options stand before SCRIPT. The script runs as 'python SCRIPT ARGS' would, and the exit
    status is its own. Behind a launcher: torchrun … -m gradscope.cli run SCRIPT.
    """
    from gradscope.cli.writing import check_writable
    from gradscope.errors import UsageError
    from gradscope.running import Script, Watcher

    if not 0 <= overhead < 1:
        raise UsageError(f"--overhead is {overhead:g}; it is a share, from 0 to below 1.")
    if store is not None:
        check_writable(store, folder=False)
        store = store.absolute()
    wanted = Script(script, tuple(arguments or ()), is_module=module)
    wanted.check()
    raise Ready(wanted, Watcher(model=model, store=store, every=every, overhead=overhead or None))


@dataclass
class Ready(BaseException):
    """Leaves the parser of the command line, which would make other endings of the script's.

    It turns Ctrl-C and broken pipes into exit statuses of its own.
    """

    script: Script
    watcher: Watcher

    def start(self) -> None:
        """Runs the script; raises what it raises, says before what was recorded."""
        sys.excepthook = _EXCEPTHOOK
        self.watcher.start()
        ended = ""
        try:
            self.script.run()
        except SystemExit as error:
            ended = "" if error.code in (None, 0) else "SystemExit"
            raise
        except BaseException as error:
            ended = type(error).__name__
            self.script.show_own_frames(error)
            raise
        finally:
            _tell(self.watcher.finish(ended))


def _tell(outcome: Outcome) -> None:
    """Says on stderr what was found, and where the rest of it is."""
    if not outcome.speaks:
        return
    try:
        from rich.console import Console

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for line, style in _lines(outcome):
            console.print(line, style=style, markup=False)
    except Exception:
        # Nobody listens any more, or the script has changed what this is made of. What is
        # recorded is recorded.
        return


def _lines(outcome: Outcome) -> list[tuple[str, str]]:
    from gradscope.reports.wording import visible

    lines = []
    for recorded in outcome.recorded:
        lines.append((_headline(recorded), "bold"))
        alerts = sorted(recorded.alerts, key=lambda alert: (alert.severity.rank, alert.step))
        lines += [_finding(alert) for alert in alerts[:_MOST_FINDINGS]]
        if more := len(alerts) - _MOST_FINDINGS:
            lines += [(f"  and {more} more", "")] if more > 0 else []
    lines += [(f"gradscope: {note}", "") for note in outcome.notes]
    return [(visible(line), style) for line, style in lines]


def _headline(recorded: Recorded) -> str:
    what = f"gradscope: {recorded.steps:,} steps of {', '.join(recorded.models)}"
    if not recorded.complete:
        what += ", until the monitor ended"
    found = "" if recorded.alerts else "; nothing was found"
    if recorded.path is None:
        return f"{what}, not recorded{found}."
    place = _shortest(recorded.path)
    return f"{what} in {place}{found}. See it with: gradscope report {shlex.quote(place)}"


def _finding(alert: Alert) -> tuple[str, str]:
    when = f"from step {alert.step:,}"
    if alert.closed is not None:
        when = f"steps {alert.step:,} to {alert.closed:,}"
    style = {"error": "red", "warning": "yellow"}.get(alert.severity.value, "")
    return f"  {alert.code} {alert.name} ({alert.severity.value}, {when}): {alert.message}", style


def _shortest(path: Path) -> str:
    try:
        here = Path.cwd()
    except OSError:  # the script has deleted it
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
