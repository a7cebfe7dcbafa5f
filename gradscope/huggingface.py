"""Examines a model that is saved as a folder of Hugging Face's ``transformers``.

Everything is read from the folder: nothing is downloaded, and no code that lies in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradscope.checked import one_line
from gradscope.errors import SubjectError
from gradscope.randomness import preserved_randomness
from gradscope.subject import Subject, own_loss_step

__all__ = ["is_model_folder", "load_folder"]

_CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_KIND = "Hugging Face folder"


def is_model_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a ``config.json`` in it."""
    return (Path(path) / _CONFIG).is_file()


def load_folder(folder: str | Path) -> Subject:
    """The model that a folder holds, without data.

    Its class is the first of ``architectures`` in the config, ``AutoModel`` without any. Weights
    are those in the folder (``.safetensors`` or ``.bin``); without any they are fresh, which the
    subject's ``kind`` says. Numbers have the type that the config names, else that of the weights.
    The loss is the one that the model computes by itself when its batches hold labels.

    Raises:
        SubjectError: transformers is missing, or the folder cannot be read as what it is.
    """
    folder = Path(folder)
    transformers = _transformers(folder)
    _refuse_code_from_elsewhere(folder)
    config = _read(
        folder,
        lambda: transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ),
    )
    architecture = _architecture(transformers, folder, config)
    if not any((folder / name).is_file() for name in _WEIGHTS):
        return _subject(
            folder, f"{_KIND}, fresh weights", lambda: _fresh(folder, architecture, config)
        )

    def load() -> tuple[nn.Module, int]:
        with _quiet(transformers):
            model, loading = _read(
                folder,
                lambda: architecture.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    weights_only=True,
                    dtype="auto",
                    output_loading_info=True,
                ),
            )
        return _ready(model), len(loading["missing_keys"])

    # What is missing shows only once all is loaded; that need not be done twice where it is whole.
    with preserved_randomness(0):
        model, missing = load()
    if missing:
        kind = f"{_KIND}, {missing} {'weight' if missing == 1 else 'weights'} missing and fresh"
        return _subject(folder, kind, lambda: load()[0])
    loaded = [model]
    return _subject(folder, _KIND, lambda: loaded.pop() if loaded else load()[0])


def _subject(folder: Path, kind: str, build_model: Callable[[], nn.Module]) -> Subject:
    return Subject(
        name=str(folder),
        build_model=build_model,
        build_data=None,
        step=own_loss_step(str(folder)),
        kind=kind,
    )


def _transformers(folder: Path) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise SubjectError(
            f"{folder} holds a model of Hugging Face's, and transformers cannot be imported "
            f"({one_line(error)}); pip install transformers."
        ) from error
    return transformers


def _refuse_code_from_elsewhere(folder: Path) -> None:
    """A config can ask for kernels by the name of a repository, which would be downloaded."""
    try:
        read = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise SubjectError(f"{folder / _CONFIG} is not a JSON object; save the model again.")
    for key, value in read.items():
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise SubjectError(
                f"{folder / _CONFIG} asks for code from {value!r} ({key}), which is never "
                "downloaded; take the entry out."
            )


def _architecture(transformers: ModuleType, folder: Path, config: Any) -> Any:
    """The class to build."""
    named = list(getattr(config, "architectures", None) or [])
    if not named:
        return transformers.AutoModel
    found = getattr(transformers, str(named[0]), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise SubjectError(
            f"{folder} holds a {named[0]}, which transformers "
            f"{metadata.version('transformers')} does not have, and code that comes with a model "
            "is never run; build the model in a subject file."
        )
    return found


def _fresh(folder: Path, architecture: Any, config: Any) -> nn.Module:
    build = getattr(architecture, "_from_config", None) or architecture.from_config
    return _ready(_read(folder, lambda: build(config)))


def _ready(model: nn.Module) -> nn.Module:
    """Classifiers of sequences look for padding, and refuse batches where none is defined."""
    config: Any = model.config
    if type(model).__name__.endswith("ForSequenceClassification") and config.pad_token_id is None:
        end = getattr(config, "eos_token_id", None)
        config.pad_token_id = end if isinstance(end, int) else 0
    return model


def _read(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: BaseException) -> SubjectError:
    return SubjectError(
        f"{folder} cannot be read as a model of Hugging Face's: {one_line(error):.300}. Check "
        "that it loads with from_pretrained(folder, local_files_only=True)."
    )


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No bars and no tables on stderr; what is missing stands in the report."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
