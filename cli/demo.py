"""``gradscope demo``: the main job, on the shipped example and the shipped sample of the data."""

from __future__ import annotations

import os
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
    from gradscope.examples.fashion_mnist import SAMPLE, VARIABLE

    # The sample rather than a full copy that this machine may have: the demo is to print the same
    # everywhere.
    os.environ.setdefault(VARIABLE, str(SAMPLE))
    fix.run("gradscope.examples.deep_sigmoid_mlp", out, unsafe=True)
