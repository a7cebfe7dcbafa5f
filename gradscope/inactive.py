"""Which units get no gradient, as far as the optimizer's moments in a checkpoint tell.

A row of a layer's weight is a unit; where none of its gradient is remembered, it is dead, or
nothing behind it passes a gradient back. What is known of the layers together tells the two apart:
a layer before one in which no unit is left says nothing about its own. It is wrong where a layer's
rows are no units and nothing tells, and it takes layers to run in the order in which they stand.
"""

from __future__ import annotations

import re

from gradscope.stored import GradientEvidence, Stored, StoredRole, StoredWeight

__all__ = ["inactive_units"]

# Where a layer has died as a whole, what is remembered of late shrinks in all rows alike: under a
# decay of 0.9, 1e-4 of the next layer's is left after 90 steps. Vanishing gradients lose at most a
# factor of 200 from layer to layer: N(0, 1e-3), 64 wide.
_FALLEN = 1e-4

# As much as after 45 steps. It is enough where a longer memory shows that there was more before,
# and all that is to be had where weight decay leaves rounding.
_FALLEN_LATELY = 1e-2

# Below this share of the long memory, rows that live count as stopped, too: one batch with a huge
# gradient is remembered for thousands of steps.
_OUTSHONE = 1e-3

# Behind dead units inputs are zero, and so is the gradient of the weight they meet, but for what is
# remembered; that of the bias beside it is not. Healthy networks: from 0.033.
_WITHOUT_INPUTS = 1e-2

# Norm of all gradients below which the loss is zero, and no unit gets any.
_CONVERGED = 1e-6

# Layers before a dead one have about as little left as it has.
_AS_LITTLE = 10.0

# No ReLU stands behind what attention compares (where it looks at all alike, little comes back),
# nor behind what chooses among experts or gates.
_NO_RELU = re.compile(
    r"(^|[._])(\w*attention\w*|\w*attn\w*|att|mha|\w*(qkv|kqv)\w*|in_proj|router|gat(e|ing)"
    r"|query(_key_value)?|key|[qk](_(proj|lin))?|to_[qkv]+|w[qk])([._]|$)"
)


def inactive_units(stored: Stored) -> dict[str, float]:
    """Share of units that get no gradient, by name of the hidden layers of which it is known.

    Not known is it of layers whose gradient is hidden by weight decay, or was once so large that it
    hides the rest; of those before a layer in which no unit is left; and of those that give others
    inputs, but get no gradient at all back. Tables that are looked up, and queries and keys of
    attention, are no such layers.
    """
    shares: dict[str, float] = {}
    if stored.gradient_norm < _CONVERGED:
        return shares
    following: list[GradientEvidence] = []
    next_share, dead_size = 0.0, 0.0
    for layer in reversed(stored.layers):
        moments = _moments(stored, layer)
        if not moments or _NO_RELU.search(layer.name.lower()) or _is_table(stored, layer):
            continue
        size = _size(moments)
        told = [each for each in moments if not (_is_hidden(each) or _is_outshone(each))]
        share = min((each.inactive_rows or 0.0 for each in told), default=0.0)
        known = bool(told)
        if following and size < _fallen(moments[0]) * _size(following):
            known = next_share < 1.0 and not _gets_inputs(following)
            share, dead_size = 1.0, size
        elif share == 1.0:
            known = known and next_share < 1.0 and not _gets_inputs(following)
        elif size < _AS_LITTLE * dead_size:
            known = False
        # What never had a gradient is cut off from the loss, and no unit of it has died.
        known = known and any(each.gradient_rms > 0 for each in moments)
        if known and layer is not stored.layers[-1]:
            shares[layer.name] = share
        following, next_share = moments, share
    return {layer.name: shares[layer.name] for layer in stored.layers if layer.name in shares}


def _moments(stored: Stored, layer: StoredWeight) -> list[GradientEvidence]:
    """What is remembered of the gradients of its weight and of its bias; none of the bias alone."""
    found = [stored.gradient(layer.name), stored.gradient(_bias_of(layer))]
    if found[0] is None or found[0].inactive_rows is None:
        return []
    return [
        each
        for each in found
        if each is not None and each.inactive_rows is not None and each.shape[:1] == layer.shape[:1]
    ]


def _bias_of(layer: StoredWeight) -> str:
    """The name of the bias beside a weight; empty where it is not called one."""
    module, dot, last = layer.name.rpartition(".")
    return f"{module}{dot}{last.replace('weight', 'bias')}" if "weight" in last else ""


def _size(moments: list[GradientEvidence]) -> float:
    """Of a layer's gradient of late; the least where weight decay leaves nothing but rounding."""
    seen = [each.gradient_of_late for each in moments if not _is_hidden(each)]
    return max(seen) if seen else min(each.gradient_of_late for each in moments)


def _is_hidden(moment: GradientEvidence) -> bool:
    """Whether what is left once weight decay is taken out is a difference of like numbers."""
    return moment.decay_share > 1


def _is_outshone(moment: GradientEvidence) -> bool:
    return moment.gradient_of_late < _OUTSHONE * moment.gradient_rms


def _fallen(moment: GradientEvidence) -> float:
    return _FALLEN_LATELY if _is_outshone(moment) or _is_hidden(moment) else _FALLEN


def _gets_inputs(moments: list[GradientEvidence]) -> bool:
    """Whether a layer behind one without gradient gets inputs other than zero all the same.

    Then the gradient of its weight is more than nothing, beside that of its bias, if it has one.
    """
    if not moments or _is_hidden(moments[0]):
        return False
    late = [each.gradient_of_late for each in moments]
    return late[0] > _WITHOUT_INPUTS * max(late)


def _is_table(stored: Stored, layer: StoredWeight) -> bool:
    """Whether it looks like a table that no name gives away: higher than wide, before all layers.

    Nor are rows units of what is no module's weight, such as learned positions.
    """
    if not _bias_of(layer):
        return True
    for each in stored.weights:
        if each.role is StoredRole.WEIGHT and _bias_of(each):
            if not _looks_like_one(stored, each):
                return False
            if each is layer:
                return True
    return False


def _looks_like_one(stored: Stored, layer: StoredWeight) -> bool:
    """Tables have no bias, and more entries than features; a normalisation may follow."""
    if stored.gradient(_bias_of(layer)) is not None:
        return False
    return len(layer.shape) == 2 and layer.shape[0] > layer.shape[1]
