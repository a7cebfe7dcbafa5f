"""Reads checkpoints of every common form, without the model's code and without running any."""

from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.opening import checkpoints_in, open_checkpoint
from gradscope.checkpoints.run_order import name_order, named_step

__all__ = [
    "Checkpoint",
    "OptimizerState",
    "StoredTensor",
    "checkpoints_in",
    "name_order",
    "named_step",
    "open_checkpoint",
]
