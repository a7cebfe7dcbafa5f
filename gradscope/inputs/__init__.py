"""Made-up inputs: what a model may take, which of it passes, and a loss where none was given.

:mod:`~gradscope.inputs.layers`, :mod:`~gradscope.inputs.arguments` and
:mod:`~gradscope.inputs.transformers_config` guess, :mod:`~gradscope.inputs.probe` finds out, and
:mod:`~gradscope.inputs.synthetic` makes the batches.
"""

from gradscope.inputs.synthetic import (
    inferred_batches,
    made_up_step,
    on_inferred_inputs,
    on_random_inputs,
    own_or_projected,
    projected_loss,
)

__all__ = [
    "inferred_batches",
    "made_up_step",
    "on_inferred_inputs",
    "on_random_inputs",
    "own_or_projected",
    "projected_loss",
]
