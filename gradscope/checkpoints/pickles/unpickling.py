"""Has torch unpickle a file that the user trusts, and says in a sentence why another one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradscope.checked import one_line
from gradscope.checkpoints.pickles.inert_pickle import NotInert, UnknownName
from gradscope.checkpoints.storage.regions import Unreadable
from gradscope.errors import CheckpointError

__all__ = ["explained", "unpickled"]


def unpickled(path: Path, load: Callable[[], Any]) -> Any:
    """What ``load``, a call of torch.load that may run any code, returns.

    Raises:
        CheckpointError: it raised.
    """
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"{path} cannot be read by torch.load: {one_line(error):.300}. It is damaged, or was "
            "written by something else; save it again with torch.save."
        ) from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Makes what readers of pickles find wrong with a file a sentence for its user.

    Raises:
        CheckpointError: in here it was not inert, unreadable, or could not be opened.
    """
    try:
        yield
    except NotInert as error:
        raise _refused(path, error) from error
    except Unreadable as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error


def _refused(path: Path, error: NotInert) -> CheckpointError:
    """What a user is told of a pickle that was not read."""
    if isinstance(error, UnknownName):
        return CheckpointError(
            f"{path} names {error.name!r:.120}, which is no part of weights or optimizer states "
            "and would have to run; save the state_dict alone, or pass --trust-pickle, which runs "
            "any code in the file and is for files of your own only."
        )
    return CheckpointError(
        f"{path} was not read: it holds {error}. Save the state_dict again with torch.save, or "
        "pass --trust-pickle, which runs any code in the file and is for files of your own only."
    )


def _damaged(path: Path, what: object) -> CheckpointError:
    """What a user is told of a file that contradicts itself."""
    return CheckpointError(f"{path} is damaged or was made up: {what}; save or copy it again.")
