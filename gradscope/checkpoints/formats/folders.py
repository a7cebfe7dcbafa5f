"""Reads folders in which a model lies beside its optimizer: Hugging Face's, accelerate's, any."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.formats.distributed import is_part
from gradscope.checkpoints.formats.sharded import ShardedReader, load_sharded, weight_map
from gradscope.checkpoints.formats.tensor_files import (
    inside,
    is_inside,
    is_tensor_file,
    load_tensor_file,
)
from gradscope.checkpoints.reader import Reader
from gradscope.errors import CheckpointError
from gradscope.records import Skipped

__all__ = ["AccelerateReader", "HuggingFaceReader", "PlainFolderReader", "weight_files"]

_CONFIGS: Final = ("config.json", "adapter_config.json")
_WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_OPTIMIZER: Final = re.compile(r"optim(izer)?(_\d+)?\.(pt|pth|bin)")
_BESIDE: Final = re.compile(
    r"(sampler|scaler|scheduler|lr_scheduler|rng_state|random_states|training_args|"
    r"custom_checkpoint|dl_state_dict)(_\d+)?\.(pt|pth|bin|pkl)"
)
"""Files of the trainers that hold neither weights nor an optimizer."""
_SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".safetensors", ".pt2")

_MODEL: Final = re.compile(
    r"(model|pytorch_model)(_\d+)?(\.safetensors|\.bin)(\.index\.json)?", re.ASCII
)
_STATE: Final = "trainer_state.json"
_STATE_LIMIT: Final = 100_000_000


class HuggingFaceReader(Reader):
    """A ``config.json`` beside weights, as ``save_pretrained`` and ``Trainer`` write them."""

    form = "Hugging Face folder"

    def recognises(self, path: Path) -> bool:
        return _has(path, _CONFIGS) and _has(path, _WEIGHTS)

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        names = _names(path)
        there = [name for name in _WEIGHTS if name in names]
        # Two kinds of weights in one folder are the same in two formats.
        skipped = [Skipped(name, f"{there[0]} was read instead") for name in there[1:]]
        parts = _Parts(path, {"model": there[0]}, _optimizers(names), skipped)
        return parts.read(self.form, _global_step(path, names), trust_pickle)


class AccelerateReader(Reader):
    """What ``accelerator.save_state()`` writes: models, optimizers and random states by number."""

    form = "accelerate folder"

    def recognises(self, path: Path) -> bool:
        try:
            names = _names(path)
        except CheckpointError:
            return False
        beside = any(_OPTIMIZER.fullmatch(name) or _BESIDE.fullmatch(name) for name in names)
        return beside and any(map(_MODEL.fullmatch, names))

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        names = _names(path)
        models: dict[str, str] = {}
        for name in names:
            if matched := _MODEL.fullmatch(name):
                models.setdefault(f"model{matched[2] or ''}", name)
        parts = _Parts(path, models, _optimizers(names), [])
        return parts.read(self.form, _global_step(path, names), trust_pickle)


class PlainFolderReader(Reader):
    """A folder with one file of weights in it, and perhaps its optimizer in another one."""

    form = "folder"

    def recognises(self, path: Path) -> bool:
        try:
            return path.is_dir() and len(weight_files(path)) == 1
        except CheckpointError:
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        names = _names(path)
        file = weight_files(path)[0]
        parts = _Parts(path, {"model": file.name}, _optimizers(names), [])
        return parts.read(None, _global_step(path, names), trust_pickle)


def weight_files(folder: Path, *, by_name: bool = False) -> list[Path]:
    """Files of a folder that hold weights: an index stands for its shards.

    Args:
        folder: where they lie.
        by_name: also those of which only the name says so, as of damaged ones, but none that a
            link leads to outside of the folder.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    files = [folder / name for name in _names(folder) if (folder / name).is_file()]
    # What a link out of the folder leads to is not even looked at; whoever reads it is told.
    outside = {file for file in files if not is_inside(folder, file.name)}
    indexes = [file for file in files if file not in outside and ShardedReader().recognises(file)]
    shards: set[str] = set()
    for index in indexes:
        shards.update(_shards(index))
    beside = [
        file
        for file in files
        if file not in indexes
        and file.name not in shards
        and not _OPTIMIZER.fullmatch(file.name)
        and not _BESIDE.fullmatch(file.name)
        and not is_part(file.name)
        and (
            not by_name and _named_so(file)
            if file in outside
            else is_tensor_file(file) or (by_name and _named_so(file))
        )
    ]
    return sorted([*indexes, *beside])


def _named_so(file: Path) -> bool:
    return file.suffix in _SUFFIXES and not file.name.startswith(".")


@dataclass(frozen=True)
class _Parts:
    """What of a folder is read.

    Attributes:
        folder: where all of it lies.
        models: file names of weights, or of their index, by what the report calls them.
        optimizers: file names.
        skipped: what is not read.
    """

    folder: Path
    models: dict[str, str]
    optimizers: Sequence[str]
    skipped: Sequence[Skipped]

    def read(self, form: str | None, step: int | None, trust_pickle: bool) -> Checkpoint:
        tree: dict[str, Any] = {}
        forms: list[str] = []
        for label, name in self.models.items():
            tree[label], how = self._load(name, trust_pickle)
            forms.append(how)
        optimizers: dict[str, Any] = {}
        for name in self.optimizers:
            optimizers[name] = self._load(name, trust_pickle)[0]
        read = {*self.models.values(), *self.optimizers}
        skipped = [
            *self.skipped,
            *(
                Skipped(name, "holds neither weights nor the state of an optimizer")
                for name in _names(self.folder)
                if name not in read and _BESIDE.fullmatch(name)
            ),
        ]
        whole = tree["model"] if len(tree) == 1 and not optimizers else tree
        if optimizers:
            whole = {**tree, "optimizers": optimizers}
        what = form if form is not None else f"folder with a {forms[0]}"
        return checkpoint_of(whole, str(self.folder), what, step=step, skipped=skipped)

    def _load(self, name: str, trust_pickle: bool) -> tuple[Any, str]:
        file = inside(self.folder, name, self.folder)
        if ShardedReader().recognises(file):
            return load_sharded(file, trust_pickle)
        return load_tensor_file(file, trust_pickle)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}.") from error


def _has(folder: Path, names: Sequence[str]) -> bool:
    try:
        return any((folder / name).is_file() for name in names)
    except OSError:
        return False


def _optimizers(names: Sequence[str]) -> list[str]:
    return [name for name in names if _OPTIMIZER.fullmatch(name)]


def _shards(index: Path) -> set[str]:
    """What an index names; nothing where it is damaged, which reading it will tell."""
    try:
        return set(weight_map(index).values())
    except CheckpointError:
        return set()


def _global_step(folder: Path, names: Sequence[str]) -> int | None:
    """What transformers' Trainer says of how far it was."""
    if _STATE not in names:
        return None
    path = inside(folder, _STATE, folder)
    try:
        if path.stat().st_size > _STATE_LIMIT:
            return None
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON; copy it again, or leave it out.") from error
    step = state.get("global_step") if isinstance(state, dict) else None
    return step if type(step) is int and step >= 0 else None
