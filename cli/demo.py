"""``gradscope demo``: the main job, on the shipped example and the shipped sample of the data."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

NAME = "demo"


def run(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the files are written.")
    ] = Path("gradscope-demo"),
) -> None:
    """Repair the shipped example, a deep sigmoid network that stays at 10 % accuracy."""
    from gradscope.cli import fix
    from gradscope.cli.options import FailOn, Format
    from gradscope.cli.progress import progress_bar
    from gradscope.cli.writing import check_writable
    from gradscope.examples.fashion_mnist import SAMPLE, VARIABLE
    from gradscope.loading import load_subject
    from gradscope.pipeline import repair

    check_writable(out, folder=True)
    # The sample rather than a full copy that this machine may have, and no settings: the demo is
    # to print the same everywhere.
    os.environ.setdefault(VARIABLE, str(SAMPLE))
    with redirect_stdout(sys.stderr), progress_bar() as progress:
        subject = load_subject("gradscope.examples.deep_sigmoid_mlp")
        result = repair(subject, unsafe=True, progress=progress)
    fix.finish(result, out, Format.TEXT, None, FailOn.WARNING)
