"""Reads weights that several files share, by the index beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.contents.checkpoint_of import checkpoint_of
from gradscope.checkpoints.formats.safetensors import SafetensorsReader
from gradscope.checkpoints.formats.tensor_files import inside, load_tensor_file
from gradscope.checkpoints.pickles.plain import Unordered
from gradscope.checkpoints.reader import Reader
from gradscope.errors import CheckpointError

__all__ = ["ShardedReader", "load_sharded", "weight_map"]

_MAP: Final = "weight_map"
_INDEX_LIMIT: Final = 100_000_000
"""Bytes of an index; one of a hundred thousand tensors has ten million."""

_BEGINNING: Final = 1 << 16


class ShardedReader(Reader):
    """``model.safetensors.index.json``, ``pytorch_model.bin.index.json`` and the like."""

    form = "sharded weights"

    def recognises(self, path: Path) -> bool:
        try:
            if not path.is_file():
                return False
            with path.open("rb") as file:
                beginning = file.read(_BEGINNING)
                if not beginning.lstrip().startswith(b"{"):
                    return False
                if b'"weight_map"' in beginning:
                    return True
                return b'"weight_map"' in file.read(_INDEX_LIMIT)
        except OSError:
            return False

    def read(self, path: Path, trust_pickle: bool) -> Checkpoint:
        tree, form = load_sharded(path, trust_pickle)
        return checkpoint_of(tree, str(path), form)


def load_sharded(path: Path, trust_pickle: bool) -> tuple[dict[str, Any], str]:
    """All tensors of an index's shards by name, and their form in words.

    Raises:
        CheckpointError: the index is damaged or leads out of its folder, a shard is missing or
            damaged, or the two do not say the same.
    """
    places = weight_map(path)
    by_shard: dict[str, list[str]] = {}
    for name, shard in places.items():
        by_shard.setdefault(shard, []).append(name)
    tensors: dict[str, Any] = {}
    forms: set[str] = set()
    # Shards follow each other as the model's layers do, and those of torch.save keep its order.
    for shard, names in sorted(by_shard.items()):
        file = inside(path.parent, shard, path)
        held, form = load_tensor_file(file, trust_pickle)
        forms.add(form)
        if not isinstance(held, Mapping):
            raise CheckpointError(f"{file} holds no tensors by name, as {path.name} says it does.")
        _compare(path, file, names, held)
        tensors.update(held)
    if forms == {SafetensorsReader.form}:
        return Unordered(tensors, _hints(places)), "sharded safetensors"
    return tensors, "sharded torch.save files"


def _hints(places: Mapping[str, str]) -> dict[str, int]:
    """Where names stand in the model: as in the index, or only by shard if that is sorted."""
    if list(places) != sorted(places):
        return {name: place for place, name in enumerate(places)}
    numbers = {shard: number for number, shard in enumerate(sorted(set(places.values())))}
    return {name: numbers[shard] for name, shard in places.items()}


def weight_map(path: Path) -> dict[str, str]:
    """Which file each tensor lies in, as an index says.

    Raises:
        CheckpointError: it is too large for an index, no JSON, or says something else.
    """
    try:
        if path.stat().st_size > _INDEX_LIMIT:
            raise CheckpointError(
                f"{path} has {path.stat().st_size:,} bytes, and an index has at most "
                f"{_INDEX_LIMIT:,}; copy it again."
            )
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON; copy it again.") from error
    places = index.get(_MAP) if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path} has no {_MAP} of names to files; save the model again.")
    for name, shard in places.items():
        if not isinstance(shard, str):
            raise CheckpointError(
                f"{path} says that {name!r:.100} lies in {shard!r:.60}, which is no file name."
            )
    return places


def _compare(path: Path, file: Path, names: list[str], held: Mapping[Any, Any]) -> None:
    for name in names:
        if name not in held:
            raise CheckpointError(
                f"{path} says that {name!r:.100} lies in {file.name}, where it is not; copy both "
                "again."
            )
    known = set(names)
    for name in held:
        if name not in known:
            raise CheckpointError(
                f"{file} holds {name!r:.100}, which {path.name} does not say; copy both again."
            )
