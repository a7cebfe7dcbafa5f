"""What every reader of a checkpoint's format offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from gradscope.checkpoints.checkpoint import Checkpoint

__all__ = ["Reader"]


class Reader(ABC):
    """Reads checkpoints of one format. It has no state: ``open_checkpoint`` makes one for itself.

    Attributes:
        form: of what it reads, in words, such as ``safetensors file``.
    """

    form: ClassVar[str]

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a file or folder is of this format.

        A file is told by its content and never by its name, a folder by what lies in it.

        It reads little, executes nothing, and raises nothing: what is damaged beyond recognition
        is not recognised.
        """

    @abstractmethod
    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        """Reads what ``recognises``.

        Args:
            path: of a file or folder.
            trust_pickle: whether code that a pickle names may run.

        Raises:
            CheckpointError: it is damaged, or would have to run code that is not trusted.
        """
