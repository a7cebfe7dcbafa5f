"""Reads TorchScript programs, whose own code has to be loaded for that."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch

from gradscope.checked import one_line
from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.pickles.plain import made_plain
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.zip_files import directory_of
from gradscope.errors import CheckpointError

__all__ = ["TorchScriptReader"]


class TorchScriptReader(Reader):
    """Files of ``torch.jit.save`` and of ``_save_for_lite_interpreter``."""

    form: ClassVar[str] = "TorchScript program"

    def recognises(self, path: Path) -> bool:
        directory = directory_of(path)
        names = {} if directory is None else directory.entries
        inside = {name.partition("/")[2] for name in names}
        return "constants.pkl" in inside and (
            "bytecode.pkl" in inside or any(name.startswith("code/") for name in inside)
        )

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        if not trust_pickle:
            raise CheckpointError(
                f"{path} is a TorchScript program, whose code would have to be loaded to read its "
                "weights; save model.state_dict() with torch.save, or pass --trust-pickle, which "
                "runs code in the file and is for files of your own only."
            )
        return checkpoint_of(made_plain(_loaded(path), lambda _: False), str(path), self.form)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates TorchScript with every call
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read by torch.jit.load: {one_line(error):.300}. Save the program "
            "again, or model.state_dict() with torch.save."
        ) from error
