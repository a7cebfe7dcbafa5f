"""Has torch read a pickle that was checked, and says in a sentence what kept it from doing so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gradscope.checked import one_line
from gradscope.checkpoints.pickle_calls import RefusedPickle, UnknownGlobal
from gradscope.checkpoints.stand_ins import STAND_INS
from gradscope.errors import CheckpointError

__all__ = ["refused", "unpickled"]


def unpickled(path: Path, load: Callable[[], Any], trust_pickle: bool) -> Any:
    """What ``load``, a call of torch.load, returns.

    Raises:
        CheckpointError: it raised.
    """
    try:
        if trust_pickle:
            return load()
        names: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
        with torch.serialization.safe_globals(names):
            return load()
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"{path} cannot be read by torch.load: {one_line(error):.300}. It is damaged, or was "
            "written by something else; save it again with torch.save."
        ) from error


def refused(path: Path, error: RefusedPickle) -> CheckpointError:
    """What a user is told of a pickle that was not read."""
    if isinstance(error, UnknownGlobal):
        return CheckpointError(
            f"{path} names {str(error)!r:.120}, which is no part of weights or optimizer states "
            "and would have to run; save the state_dict alone, or pass --trust-pickle, which runs "
            "any code in the file and is for files of your own only."
        )
    return CheckpointError(
        f"{path} was not unpickled: its pickle {error}. Save the state_dict again with torch.save, "
        "or pass --trust-pickle, which runs any code in the file and is for files of your own only."
    )
