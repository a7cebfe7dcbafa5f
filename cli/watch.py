"""``gradscope watch``: a training run as it goes, in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from gradscope.cli.following import Following
    from gradscope.reports.nodes import Mark

NAME = "watch"

RUN = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The store of a training run, such as run.gradscope."),
]
ONCE = Annotated[
    bool, typer.Option("--once", help="Print how it stands now and end, as where no terminal is.")
]

_SECONDS = 1.0
"""Between two looks: a run writes about as often."""
_SILENT = 30.0
"""A run that wrote nothing for so many seconds, and for several samples' time, seems stalled."""
_SAMPLES = 4
_CLOSING = "q ends this view; training goes on"


def run(store: RUN, once: ONCE = False) -> None:
    """Watch a training run: loss, findings, and the gradient and dead units of every layer.

    The store is read while another process writes it, and nothing is written to it. q or Ctrl-C
    ends the view, never the run. Exits 0; 3 when RUN cannot be read.
    """
    from rich.console import Console

    from gradscope.cli.following import Following

    console = Console()
    following = Following(store)
    try:
        if once or not console.is_terminal:
            for line in _lines(following, console, console.height, ""):
                console.print(line, soft_wrap=True, highlight=False)
        else:
            _watch(following, console)
    except KeyboardInterrupt:
        pass
    finally:
        following.close()


def _watch(following: Following, console: Console) -> None:
    from rich.console import Group
    from rich.live import Live

    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            lines = _lines(following, console, console.height, _CLOSING)
            live.update(Group(*lines), refresh=True)
            if pressed(_SECONDS) in ("q", "Q", "\x04"):
                return
            following.look()


def _lines(following: Following, console: Console, height: int, closing: str) -> list[Text]:
    from gradscope.reports.console.live import Now, frame

    age = max(0.0, time.time() - following.updated)
    now = Now(
        name=following.path.name,
        parameters=following.parameters,
        history=following.history,
        state=_state(following, age),
        age=age,
    )
    return frame(now, console, height, closing=closing)


def _state(following: Following, age: float) -> Mark:
    from gradscope.reports.nodes import Mark, Tone

    history = following.history
    if following.gone:
        return Mark("▲", "the file is gone or cannot be read", Tone.WARN)
    if history.ended is not None:
        if history.ended:
            return Mark("✗", f"ended by {history.ended}", Tone.BAD)
        return Mark("✓", "finished", Tone.GOOD)
    # The monitor spaces its samples further than it was asked to, where they cost too much.
    apart = max(history.every, *(b - a for a, b in pairwise(history.sampled[-3:])), 0)
    if age > max(_SILENT, _SAMPLES * apart * max(0.0, history.seconds)):
        return Mark("▲", "stalled or killed", Tone.WARN)
    return Mark("▸", "running", Tone.GOOD)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yields what waits for so many seconds, or for a key, and returns the key or nothing."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    try:
        import termios
        import tty
    except ImportError:
        yield _windows_key
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(seconds: float) -> str:
    import os
    import select

    if not select.select([sys.stdin], [], [], seconds)[0]:
        return ""
    # Past Python's buffer, which select does not see. Nothing to read: the terminal is gone.
    return os.read(sys.stdin.fileno(), 1).decode("latin-1") or "q"


def _windows_key(seconds: float) -> str:
    import msvcrt

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if msvcrt.kbhit():  # type: ignore[attr-defined, unused-ignore]
            return str(msvcrt.getwch())  # type: ignore[attr-defined, unused-ignore]
        time.sleep(0.05)
    return ""
