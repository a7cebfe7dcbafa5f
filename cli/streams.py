"""stdout and stderr as they are found: of any encoding, and closed by their reader at any time."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CLOSED", "fitting_streams"]

CLOSED = 141
"""Exit status where the reader has closed the pipe, as of a program that SIGPIPE ended."""
_HANDLER = "gradscope.ascii"


@contextmanager
def fitting_streams() -> Iterator[None]:
    """Meanwhile no character is too much for stdout or stderr, and no closed pipe is an error.

    What an encoding has not is written in ASCII: on Windows a redirected stdout has a code page's.

    Raises:
        SystemExit: with status 141, where the reader of stdout went away.
    """
    codecs.register_error(_HANDLER, _in_ascii)
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            changed.append((stream, stream.errors))
            stream.reconfigure(errors=_HANDLER)
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                # Here, as the interpreter would complain about it at its end.
                sys.stdout.flush()
    except BrokenPipeError:
        _leave()
    except SystemExit as ended:
        # click and rich end in their own ways.
        if isinstance(ended.__context__, BrokenPipeError):
            _leave()
        raise
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)


def _leave() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(CLOSED)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Not before it is needed, so that help answers at once.
    from gradscope.reports.console.symbols import spelled

    return "".join(map(spelled, error.object[error.start : error.end])), error.end
