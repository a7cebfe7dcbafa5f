"""What any reader makes of a checkpoint: tensors by name, and what its optimizers remember."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradscope.records import Skipped
from gradscope.stored import LayerOrder

__all__ = ["Checkpoint", "OptimizerState", "StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read when it is asked for.

    Attributes:
        shape: of it.
        dtype: as it is stored.
        load: reads it, on the CPU. What it returns may be a view of the file, of which the system
            reads the pages that are looked at; nothing may write to it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer remembers of the gradients, by the name of the parameter.

    Attributes:
        kind: class name as torch has it, such as ``Adam``; ``Adam or AdamW`` where the file does
            not tell; empty where it is none that is known.
        settings: of each parameter that it holds: learning rate, betas, eps and so on, as in
            ``param_groups``, without ``params``.
        state: of each parameter that has made a step: tensors such as ``exp_avg_sq``, and plain
            numbers such as ``step``.
        matching: how parameters were told by name, in a sentence, for the report.
    """

    kind: str
    settings: Mapping[str, Mapping[str, Any]]
    state: Mapping[str, Mapping[str, StoredTensor | float]]
    matching: str


@dataclass(frozen=True)
class Checkpoint:
    """What was found in a file or folder.

    Attributes:
        name: as it was given.
        form: in words, such as ``sharded safetensors``.
        weights: parameters and buffers by name, in the model's order as far as it is known.
        aliases: names of tensors that share another one's memory, and that one's name; they are
            not in ``weights``.
        optimizers: none, one, or several.
        step: how many optimizer steps had been made, where the file tells.
        skipped: what is in it that was not read, and why.
        order: where that of ``weights`` comes from.
    """

    name: str
    form: str
    weights: Mapping[str, StoredTensor]
    aliases: Mapping[str, str] = field(default_factory=dict)
    optimizers: tuple[OptimizerState, ...] = ()
    step: int | None = None
    skipped: tuple[Skipped, ...] = ()
    order: LayerOrder = LayerOrder.MODEL
