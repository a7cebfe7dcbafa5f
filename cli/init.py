"""``gradscope init``: writes a subject file, filled in as far as the model can tell."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradscope.errors import UsageError

if TYPE_CHECKING:
    from gradscope.scaffold.draft import Draft

NAME = "init"

Spec = Annotated[
    str | None,
    typer.Argument(
        metavar="[SPEC]",
        show_default=False,
        help="What builds the model: a function, a class or a model in a file "
        "(path/to/file.py:NAME) or a module (package.module:NAME); or a Hugging Face folder. "
        "Without it the file is a template.",
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", metavar="FILE", help="Write this file; none is ever overwritten."),
]


def run(spec: Spec = None, output: Output = Path("subject.py")) -> None:
    """Write a commented subject file, filled in as far as the model can tell.

    The model is built once and passed made-up inputs. What was guessed is said, here and in the
    file. Exits 3 when the model cannot be found or built.
    """
    from gradscope.cli.writing import check_writable, write_file

    _refuse(output)
    check_writable(output, folder=False)
    if spec is None:
        from gradscope.scaffold.template import TEMPLATE

        write_file(output, TEMPLATE)
        _tell_template(output)
        return
    from gradscope.scaffold.draft import draft

    # What the user's code prints goes to stderr, as everywhere.
    with redirect_stdout(sys.stderr):
        made = draft(spec, output)
    write_file(output, made.text)
    _tell(made, output)


def _refuse(output: Path) -> None:
    """Refuses what would take something away, or could not be scanned.

    Raises:
        UsageError: the file exists, or is no Python by its name.
    """
    if output.suffix != ".py":
        raise UsageError(f"--output is {output}; a subject file ends in .py.")
    if output.exists() or output.is_symlink():
        raise UsageError(
            f"{output} exists already and is not overwritten; choose another name with "
            "--output FILE."
        )


def _tell_template(output: Path) -> None:
    typer.echo(
        f"Wrote {_visible(str(output))}: a template that works as it stands, on a small model and "
        "data that were\nmade up. Replace what is marked REPLACE by your own.\n"
    )
    _tell_next(output, ("scan", "it finds nothing in the model that was made up"))
    typer.echo("  gradscope init FILE.py:NAME  fills it in from your model instead")


def _tell(made: Draft, output: Path) -> None:
    typer.echo(f"Wrote {_visible(str(output))}.\n")
    for part in made.told:
        typer.echo(f"  {part.part:<10} {_visible(part.what)} ({part.sure})")
        if part.check:
            typer.echo(f"  {'':<10} -> {_visible(part.check)}")
    typer.echo("")
    told = "what is wrong with it" if made.complete else "once that is filled in"
    _tell_next(output, ("scan", told))


def _tell_next(output: Path, *commands: tuple[str, str]) -> None:
    typer.echo("Next")
    for command, purpose in commands:
        typer.echo(f"  gradscope {command} {_visible(shlex.quote(str(output)))}  {purpose}")


def _visible(text: str) -> str:
    from gradscope.reports.wording import visible

    return visible(text)
