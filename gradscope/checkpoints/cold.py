"""Reads a checkpoint tensor by tensor into the plain records that rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.contents.usual_names import is_buffer
from gradscope.checkpoints.evidence.gradients import (
    batch_norm_evidence,
    gradient_evidence,
    is_table,
)
from gradscope.checkpoints.evidence.statistics import tensor_statistics
from gradscope.checkpoints.storage.paging import looked_at
from gradscope.records import Profile, Skipped, Source
from gradscope.stored import LayerOrder, Stored, StoredRole, StoredWeight

__all__ = ["cold_profile", "read_stored"]

Progress = Callable[[str, float], None]


def read_stored(checkpoint: Checkpoint, progress: Progress | None = None) -> Stored:
    """What a checkpoint tells, with one tensor in memory at a time.

    Raises:
        CheckpointError: the file has changed or cannot be read any more.
    """
    weights = []
    for number, (name, stored) in enumerate(checkpoint.weights.items()):
        if progress is not None:
            progress(f"reading {checkpoint.name}", number / len(checkpoint.weights))
        with looked_at(stored) as tensor:
            # The rank of what is no matrix of weights says nothing, and takes as long as the rest.
            statistics = tensor_statistics(tensor, rank=min(stored.shape[:2], default=0) > 1)
        dtype = str(stored.dtype).removeprefix("torch.")
        role = _role(name, stored, checkpoint)
        weights.append(StoredWeight(name, stored.shape, dtype, role, statistics))
    return Stored(
        form=checkpoint.form,
        step=checkpoint.step,
        optimizers=tuple(each.kind for each in checkpoint.optimizers),
        matching=tuple(each.matching for each in checkpoint.optimizers),
        weights=tuple(weights),
        gradients=gradient_evidence(checkpoint),
        normalisations=batch_norm_evidence(checkpoint),
        order=checkpoint.order,
    )


def cold_profile(checkpoint: Checkpoint, progress: Progress | None = None) -> Profile:
    """The profile of a model that was not run: what its checkpoint tells, and nothing measured.

    Raises:
        CheckpointError: the file has changed or cannot be read any more.
    """
    stored = read_stored(checkpoint, progress)
    remembers = any(each.moment for each in stored.gradients)
    return Profile(
        source=Source.OPTIMIZER_STATE if remembers else Source.WEIGHTS,
        batch_size=0,
        losses=(),
        input_variation=(),
        sites=(),
        parameters=(),
        optimizer=" and ".join(dict.fromkeys(filter(None, stored.optimizers))) or None,
        epsilon=None,
        seed=0,
        skipped=(*checkpoint.skipped, *_not_known(checkpoint, stored)),
        stored=stored,
    )


def _not_known(checkpoint: Checkpoint, stored: Stored) -> Iterator[Skipped]:
    """What the file leaves open, where findings depend on it."""
    if checkpoint.order is LayerOrder.NAMES:
        yield Skipped("order of the layers", "is not in the file; it is guessed from their names")
    for optimizer in checkpoint.optimizers:
        if not optimizer.matching.startswith("all "):
            what = f"part of {optimizer.kind}'s state"
            yield Skipped(what, f"its parameters are known for {optimizer.matching}")
    left = [each.name for each in stored.gradients if not each.has_state]
    if left and len(left) < len(stored.gradients):
        what = f"the optimizer's state of {len(left)} of {len(stored.gradients)} parameters"
        reason = f"there is none, of {left[0]} first: frozen, or no gradient ever reached them"
        yield Skipped(what, reason)


def _role(name: str, stored: StoredTensor, checkpoint: Checkpoint) -> StoredRole:
    module, _, last = name.rpartition(".")
    if is_buffer(name) or not stored.dtype.is_floating_point:
        return StoredRole.BUFFER
    if last == "bias" or (len(stored.shape) < 2 and "bias" in last):
        return StoredRole.BIAS
    if len(stored.shape) < 2:
        return StoredRole.SCALE
    bias = checkpoint.weights.get(f"{module}.bias" if module else "bias")
    return StoredRole.EMBEDDING if is_table(name, stored.shape, bias) else StoredRole.WEIGHT
