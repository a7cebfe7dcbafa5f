"""Puts the weights of a checkpoint into models that code builds, as ``load_state_dict`` would.

Unlike it, nothing of the file is unpickled, and one tensor is in memory at a time beside the model.
It is as strict: each weight of the model must be in the checkpoint, and each of the checkpoint in
the model. Names may differ by one prefix that all have, as Lightning and base models put there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from gradscope.checked import refuse_lazy
from gradscope.checkpoints.checkpoint import Checkpoint, StoredTensor
from gradscope.checkpoints.contents.model_names import cleaning
from gradscope.checkpoints.storage.paging import looked_at
from gradscope.errors import CheckpointError
from gradscope.prefixes import best_renaming
from gradscope.randomness import preserved_randomness
from gradscope.records import Skipped
from gradscope.subject import Subject

__all__ = ["restored"]

_NAMED = 3
"""Names that an error lists of each kind."""

_ALIKE = 0.6
"""Ratio of difflib from which two names may be meant as one."""

_EXTRA = "_extra_state"
"""Under this name modules save what is no tensor, by ``get_extra_state``."""

_COUNTER = "num_batches_tracked"
"""Batch normalisations have had it since torch 0.4.1."""


def restored(subject: Subject, checkpoint: Checkpoint, where: str) -> Subject:
    """The subject whose models all have the weights of a checkpoint.

    A model is built at once, so that what does not fit is told before anything runs.

    Args:
        subject: builds the model, whatever its weights.
        checkpoint: read by ``open_checkpoint``.
        where: what builds the model, such as ``train.py:build_model``, for messages.

    Returns:
        It, with what the checkpoint has that is not used among its ``skipped``.

    Raises:
        CheckpointError: names or shapes of the two differ, or the file cannot be read.
        ModelError: the model cannot be built.
    """
    with preserved_randomness(0):
        model = subject.build_model()
    told = _restore(model, checkpoint, where)
    first = [model]

    def build_model() -> nn.Module:
        if first:
            return first.pop()
        model = subject.build_model()
        _restore(model, checkpoint, where)
        return model

    return replace(
        subject,
        name=checkpoint.name,
        kind=f"{checkpoint.form} in {where}",
        build_model=build_model,
        checkpoint=checkpoint,
        skipped=(*subject.skipped, *checkpoint.skipped, *told),
    )


def _restore(model: nn.Module, checkpoint: Checkpoint, where: str) -> tuple[Skipped, ...]:
    """Puts the weights into one model; returns what there is to say about it."""
    refuse_lazy(model)
    fit = _fit(model, checkpoint)
    if fit.missing or fit.unexpected:
        raise CheckpointError(_names_differ(fit, checkpoint, where))
    shapes = [
        f"{name!r:.200} has shape {_shape(stored.shape)} in it and {_shape(own.shape)} in the model"
        for name, (own, stored) in fit.pairs.items()
        if not _same_shape(own, stored)
    ]
    if shapes:
        more = f" (and {len(shapes) - 1} more differ)" if len(shapes) > 1 else ""
        raise CheckpointError(
            f"{checkpoint.name} does not fit {where}: {shapes[0]}{more}. Build the model with the "
            "sizes that it was saved with."
        )
    with torch.no_grad():
        for name, (own, stored) in fit.pairs.items():
            _refuse_other_numbers(name, own, stored, checkpoint, where)
            with looked_at(stored) as tensor:
                own.detach().copy_(tensor.reshape(own.shape))
        for counter in fit.counters:
            counter.zero_()
    return fit.told


# --- Which tensor goes where ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """What of a checkpoint belongs to what of a model.

    Attributes:
        pairs: by the model's name, its own tensor and the stored one.
        missing: names of the model's that are not in the checkpoint.
        unexpected: names of the checkpoint's that are not in the model.
        counters: of normalisations, which files from before there were any do not have.
        told: what differs and is no fault.
    """

    pairs: dict[str, tuple[Tensor, StoredTensor]]
    missing: list[str]
    unexpected: list[str]
    counters: list[Tensor]
    told: tuple[Skipped, ...]


def _fit(model: nn.Module, checkpoint: Checkpoint) -> _Fit:
    own = _own_tensors(model)
    stored = {
        **checkpoint.weights,
        **{alias: checkpoint.weights[name] for alias, name in checkpoint.aliases.items()},
    }
    extra = [name for name in stored if _is_extra(name)]
    transient = _transient(model)
    renaming = best_renaming([name for name in stored if not _is_extra(name)], own)
    told = [*renaming.told]
    found: dict[str, StoredTensor] = {}
    used: set[int] = set()
    ignored: list[str] = []
    for name, tensor in stored.items():
        to = renaming.to(name)
        if to in own:
            found[to] = tensor
            used.add(id(tensor))
        elif to in transient:
            ignored.append(name)
    if ignored:
        told.append(Skipped(_listed(ignored), "the model makes it by itself, and does not save it"))
    if extra:
        told.append(Skipped(_listed(extra), "extra state of a module, which is not restored"))
    unexpected = [
        name
        for name, tensor in stored.items()
        if id(tensor) not in used and name not in ignored and name not in extra
    ]
    # Of a tensor that has several names one is enough to say.
    unexpected = [name for name in unexpected if name not in checkpoint.aliases]
    tied = {id(own[name]) for name in found}
    missing = [name for name, tensor in own.items() if id(tensor) not in tied]
    counters = _uncounted(own, missing)
    if counters:
        missing = [name for name in missing if name not in counters]
        told.append(Skipped(_COUNTER, "not in the checkpoint; counts from 0"))
    told += _retyped(own, found)
    return _Fit(
        {name: (own[name], tensor) for name, tensor in found.items()},
        missing,
        unexpected,
        [own[name] for name in counters],
        tuple(told),
    )


def _own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the model saves, under the names that checkpoints have without wrappers."""
    saved = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not _is_extra(name)
    }
    clean, _ = cleaning(saved)
    held = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.numel() and not tensor.is_meta
    }
    for name, tensor in saved.items():
        is_held = tensor.untyped_storage().data_ptr() in held
        if tensor.numel() and not tensor.is_meta and not is_held:
            raise CheckpointError(
                f"{type(model).__name__} makes {name!r:.200} anew for its state_dict(), so that "
                "nothing can be put into it; load the checkpoint in build_model()."
            )
    return {clean(name): tensor for name, tensor in saved.items()}


def _transient(model: nn.Module) -> set[str]:
    """Names of buffers that the model does not save."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name in module._non_persistent_buffers_set
    }


def _uncounted(own: Mapping[str, Tensor], missing: Iterable[str]) -> list[str]:
    """The counters, where the checkpoint has none at all."""
    counters = [name for name in own if name.rpartition(".")[2] == _COUNTER]
    return counters if set(counters) <= set(missing) else []


def _retyped(own: Mapping[str, Tensor], found: Mapping[str, StoredTensor]) -> list[Skipped]:
    changed: dict[tuple[str, str], int] = {}
    for name, stored in found.items():
        types = _type(stored.dtype), _type(own[name].dtype)
        if types[0] != types[1]:
            changed[types] = changed.get(types, 0) + 1
    return [
        Skipped(f"type {saved}", f"{count} stored so run in the model's type, {runs}")
        for (saved, runs), count in changed.items()
    ]


def _refuse_other_numbers(
    name: str, own: Tensor, stored: StoredTensor, checkpoint: Checkpoint, where: str
) -> None:
    if own.is_meta:
        raise CheckpointError(
            f"{where} builds {name!r:.200} on the meta device, which holds no numbers; build the "
            "model on a real device."
        )
    if stored.dtype.is_complex and not own.dtype.is_complex:
        raise CheckpointError(
            f"{checkpoint.name} does not fit {where}: {name!r:.200} is {_type(stored.dtype)} in it "
            f"and {_type(own.dtype)} in the model. Build the model with the type it was saved with."
        )


# --- What is said ---------------------------------------------------------------------------------


def _names_differ(fit: _Fit, checkpoint: Checkpoint, where: str) -> str:
    """One sentence on both sides, each name with the nearest of the other."""
    missing, unexpected = fit.missing, fit.unexpected
    parts = []
    if missing:
        others = unexpected or list(checkpoint.weights)
        count = _count(missing, "weight", "of the model")
        parts.append(f"{count} not in it: {_with_nearest(missing, others, bool(unexpected))}")
    if unexpected:
        others = missing or list(fit.pairs)
        count = _count(unexpected, "tensor", "in it")
        told = _with_nearest(unexpected, others, bool(missing))
        parts.append(f"{count} not in the model: {told}")
    return (
        f"{checkpoint.name} does not fit {where}: {'; '.join(parts)}. Give the code that the "
        "checkpoint was trained with."
    )


def _with_nearest(names: list[str], others: list[str], left_over: bool) -> str:
    """Some names, each with the nearest of the others; of those left over there, any will do."""
    told = []
    for name in names[:_NAMED]:
        nearest = get_close_matches(name, others, n=1, cutoff=0.0 if left_over else _ALIKE)
        told.append(f"{name!r:.200}" + (f" (nearest: {nearest[0]!r:.200})" if nearest else ""))
    more = len(names) - len(told)
    return ", ".join(told) + (f" and {more:,} more" if more else "")


def _count(names: list[str], noun: str, place: str) -> str:
    plural, verb = ("", "is") if len(names) == 1 else ("s", "are")
    return f"{len(names):,} {noun}{plural} {place} {verb}"


def _listed(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]


def _same_shape(own: Tensor, stored: StoredTensor) -> bool:
    # A number was saved as one row of one before torch 0.4.
    alone = own.shape == () and math.prod(stored.shape) == 1
    return tuple(own.shape) == stored.shape or alone


def _shape(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_extra(name: str) -> bool:
    # Tensors in what was saved as extra state have names below it.
    return _EXTRA in name.split(".")
