"""Examines a model that is saved as a folder of Hugging Face's ``transformers``.

Everything is read from the folder: nothing is downloaded, and no code that lies in it is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradscope.checked import one_line
from gradscope.checkpoints import open_checkpoint
from gradscope.checkpoints.formats.folders import HuggingFaceReader
from gradscope.checkpoints.formats.sharded import weight_map
from gradscope.checkpoints.formats.tensor_files import inside
from gradscope.errors import CheckpointError, SubjectError
from gradscope.randomness import preserved_randomness
from gradscope.records import Skipped
from gradscope.subject import Subject, own_loss_step

__all__ = ["CannotBuild", "has_weights", "is_model_folder", "load_folder"]

_CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPTIMIZER = "optim*.*"
_KIND = "Hugging Face folder"


class CannotBuild(SubjectError):
    """Nothing is wrong with the folder, but its model cannot be built here; ``reason`` says why."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def is_model_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a ``config.json`` in it."""
    return (Path(path) / _CONFIG).is_file()


def has_weights(path: str | Path) -> bool:
    """Whether ``path`` is a model folder whose weights can be read without its model."""
    return is_model_folder(path) and HuggingFaceReader().recognises(Path(path))


def load_folder(folder: str | Path, *, with_weights: bool = True) -> Subject:
    """The model that a folder holds, without data.

    Its class is the first of ``architectures`` in the config, ``AutoModel`` without any. Weights
    are those in the folder (``.safetensors`` or ``.bin``); without any they are fresh, which the
    subject's ``kind`` says. Numbers have the type that the config names, else that of the weights.
    The loss is the one that the model computes by itself when its batches hold labels.

    Args:
        folder: with a ``config.json``.
        with_weights: whether those in the folder are taken, or fresh ones in any case.

    Raises:
        CannotBuild: transformers is missing, or does not have the model without running code.
        CheckpointError: a file of weights lies elsewhere, or an index is damaged.
        SubjectError: the folder cannot be read as what it is.
    """
    folder = Path(folder)
    transformers = _transformers(folder)
    written = _written(folder)
    _refuse_code_from_elsewhere(folder, written)
    if with_weights:
        _refuse_files_from_elsewhere(folder)
    config = _config(transformers, folder, written)
    architecture = _architecture(transformers, folder, config)
    if not with_weights or not any((folder / name).is_file() for name in _WEIGHTS):
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
    subject = Subject(
        name=str(folder),
        build_model=build_model,
        build_data=None,
        step=own_loss_step(str(folder)),
        kind=kind,
    )
    if not any(folder.glob(_OPTIMIZER)):
        return subject
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        told = Skipped("the optimizer's state", str(error).rstrip("."))
        return replace(subject, skipped=(told,))
    return replace(subject, checkpoint=checkpoint if checkpoint.optimizers else None)


def _transformers(folder: Path) -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise CannotBuild(
            f"{folder} holds a model of Hugging Face's, and transformers cannot be imported "
            f"({one_line(error)}); pip install transformers.",
            "transformers cannot be imported",
        ) from error
    return transformers


def _written(folder: Path) -> dict[str, Any]:
    """What the config says."""
    try:
        read = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(folder, error) from error
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise SubjectError(f"{folder / _CONFIG} is not a JSON object; save the model again.")
    return read


def _refuse_code_from_elsewhere(folder: Path, written: dict[str, Any]) -> None:
    """A config can ask for kernels by the name of a repository, which would be downloaded."""
    for key, value in _implementations(written):
        if "/" in value:
            raise SubjectError(
                f"{folder / _CONFIG} asks for code from {value!r:.100} ({key:.50}), which is never "
                "downloaded; take the entry out."
            )


def _implementations(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts below keys that choose an implementation, at any depth, with that key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _implementations(inner, name if name.endswith("_implementation") else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _implementations(inner, key)
    elif key and isinstance(value, str):
        yield key, value


def _refuse_files_from_elsewhere(folder: Path) -> None:
    """What from_pretrained would read: it follows links and paths out of the folder."""
    for name in _WEIGHTS:
        if not (folder / name).is_file():
            continue
        file = inside(folder, name, folder)
        if name.endswith(".index.json"):
            for shard in set(weight_map(file).values()):
                inside(folder, shard, file)


def _config(transformers: ModuleType, folder: Path, written: dict[str, Any]) -> Any:
    """The config as transformers' class for that kind of model has it."""
    try:
        return _read(
            folder,
            lambda: transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            ),
        )
    except SubjectError as error:
        kind = written.get("model_type")
        if isinstance(kind, str) and kind in transformers.CONFIG_MAPPING:
            raise
        what = f"the kind of model {kind!r:.100}" if kind else "a model of no kind that it names"
        code = "; its own code lies in the folder, and is not run" if "auto_map" in written else ""
        reason = f"transformers {metadata.version('transformers')} does not have {what}{code}"
        raise CannotBuild(str(error), reason) from error


def _architecture(transformers: ModuleType, folder: Path, config: Any) -> Any:
    """The class to build."""
    named = getattr(config, "architectures", None)
    named = named if isinstance(named, list) else []
    if not named:
        return transformers.AutoModel
    found = getattr(transformers, str(named[0]), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        version = metadata.version("transformers")
        raise CannotBuild(
            f"{folder} holds a {named[0]}, which transformers {version} does not have, and code "
            "that comes with a model is never run; build the model in a subject file.",
            f"transformers {version} has no {named[0]!s:.100}",
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
