"""The command line: one file per command, named for it, and what they share.

Nothing here imports torch before a command runs, so that ``gradscope --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback

import typer

from gradscope.cli import (
    compare,
    demo,
    fix,
    init,
    remedy,
    report,
    rule,
    run,
    scan,
    schema,
    watch,
)
from gradscope.cli.streams import fitting_streams
from gradscope.errors import GradscopeError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gradscope",
    help="Finds where a model's gradient vanishes or explodes, says why, repairs it, and proves "
    "that the repair helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (scan, fix, init, run, watch, report, compare, rule, remedy, schema, demo):
    # Settings of the parser, where a command is not like the others.
    settings = getattr(command, "SETTINGS", None)
    app.command(command.NAME, context_settings=settings)(command.run)


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    pass


def main() -> None:
    """Runs the command line and exits: 0 nothing found, 1 findings, 2 usage, 3 target failed."""
    with fitting_streams():
        ready = _script_or_exit()
    # Out of reach of all that catches errors here: the script is to end as it would by itself.
    ready.start()


def _script_or_exit() -> run.Ready:
    """The script that is to be run; for all other commands it exits."""
    # --debug may stand anywhere, so it is taken out before the commands see the rest.
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if arguments[:1] == [run.NAME]:
        # There it may be the script's.
        arguments = sys.argv[sys.argv.index(run.NAME) :]
    try:
        app(arguments)
    except run.Ready as found:
        return found
    except GradscopeError as error:
        if debug:
            traceback.print_exc()
        from gradscope.reports.wording import visible

        # Files and names that others chose may steer a terminal.
        typer.echo(f"gradscope: {visible(str(error))}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        typer.echo("gradscope: interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(
            f"gradscope: {type(error).__name__}: {error}. This was not foreseen; run it again "
            "with --debug and report the traceback.",
            err=True,
        )
        sys.exit(3)
    sys.exit(0)
