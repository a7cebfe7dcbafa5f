"""Reads checkpoints of every common form, without the model's code and without running any."""

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.finding import (
    checkpoints_in,
    name_order,
    named_step,
    open_checkpoint,
)

__all__ = [
    "Checkpoint",
    "OptimizerState",
    "StoredTensor",
    "checkpoints_in",
    "name_order",
    "named_step",
    "open_checkpoint",
]
