"""Reads models that were saved whole, as ``torch.save(model)`` does: pickles of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from gradscope.checked import one_line
from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.formats.torch_legacy import load_legacy, pickle_after_others
from gradscope.checkpoints.formats.torch_zip import load_zip
from gradscope.checkpoints.pickles.inert_pickle import Global, class_of_outermost
from gradscope.checkpoints.reader import Reader
from gradscope.checkpoints.storage.regions import Unreadable
from gradscope.checkpoints.storage.zip_files import directory_of, pickle_in
from gradscope.errors import CheckpointError

__all__ = ["PickledModuleReader"]

_LOOKED_AT: Final = 2**20
"""Bytes of the pickle; the first attributes of a module come far before."""

_OPERATIONS: Final = 10_000

_ATTRIBUTES: Final = ("_parameters", "_buffers", "_modules")
"""What every ``nn.Module`` has, whatever its class is called."""

_ZIP: Final = b"PK\3\4"


class PickledModuleReader(Reader):
    form: ClassVar[str] = "pickled module"

    def recognises(self, path: Path) -> bool:
        return _module_class(path) is not None

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        found = _module_class(path)
        if not trust_pickle:
            raise CheckpointError(
                f"{path} holds a whole {str(found)!r:.200}, whose code would have to run to read "
                "it; save model.state_dict() with torch.save instead, or pass --trust-pickle, "
                "which runs any code in the file and is for files of your own only."
            )
        try:
            with path.open("rb") as file:
                load = load_zip if file.read(4) == _ZIP else load_legacy
            tree = load(path, trust_pickle=True)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
        except CheckpointError as error:
            if isinstance(error.__cause__, ImportError | AttributeError):
                raise CheckpointError(
                    f"{path} holds a whole {str(found)!r:.200}, whose classes cannot be imported "
                    f"({one_line(error.__cause__):.200}); set PYTHONPATH to the folder of its code."
                ) from error
            raise
        return checkpoint_of(tree, str(path), self.form)


def _module_class(path: Path) -> Global | None:
    """The class of the module that a file holds, of which nothing is imported; None for others."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            beginning = file.read(_LOOKED_AT)
        if beginning.startswith(_ZIP):
            pickle = _pickle_of_zip(path)
        elif beginning.startswith(b"\x80"):
            pickle = beginning[pickle_after_others(beginning) :]
        else:
            return None
    except Exception:
        # Damaged zips and pickles make nearly every kind of error there is.
        return None
    found = class_of_outermost(pickle, _ATTRIBUTES, _OPERATIONS)
    return None if found == _STATE_DICT else found


def _pickle_of_zip(path: Path) -> bytes:
    directory = directory_of(path)
    name = None if directory is None else pickle_in(directory.entries)
    if directory is None or name is None:
        raise Unreadable("it was not written by torch.save")
    if name.replace("data.pkl", "constants.pkl") in directory.entries:
        raise Unreadable("it is a program")
    pickle = directory.region(name)
    return bytes(pickle.part(0, min(_LOOKED_AT, pickle.length)).read())


_STATE_DICT: Final = Global("collections", "OrderedDict")
