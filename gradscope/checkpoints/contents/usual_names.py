"""What names commonly tell about where a layer stands: embeddings first, the head last.

It is used for siblings, such as ``embeddings``, ``encoder`` and ``classifier`` of one module, and
only where a file does not keep the model's order and nothing else tells it. Of layers that are
numbered alike the numbers alone tell; what stands in no list goes by the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final

__all__ = ["in_chain", "is_buffer", "natural", "own_place", "usual_place"]

_FIRST: Final = re.compile(
    r"(\w*_)?(emb|embed|embedd?ings?|stem)|embed_\w+|(patch|pos|tok|word)_emb\w*|wte|wpe|shared"
    r"|inputs?(_\w+)?|\w+_in"
)
"""What the input meets: tables of GPT-2 (wte, wpe) and T5 (shared), stems of vision models."""

_DECODER: Final = re.compile(r"dec(oder)?")
"""Behind the encoder, and whatever else there is."""

_LAST: Final = re.compile(
    r"(\w*_)?(head|heads|classifier|logits|score|outputs?)|(fc|out|cls)|fc\d+|\w+_out"
)
"""What makes the output. ``cls`` is BERT's head; the tables ``cls_token`` are not meant."""

_BATCH_NORM: Final = re.compile(r"bn(\d+)")
"""Stands right behind the convolution or linear layer of the same number."""

_MATES: Final = ("conv", "fc", "linear")

_BUFFERS: Final = {
    name: place
    for place, name in enumerate(
        (
            *("running_mean", "running_var", "num_batches_tracked"),
            *("inv_freq", "original_inv_freq", "masked_bias", "n_averaged"),
            *("position_ids", "relative_position_index"),
            *("mask", "attn_mask", "attention_mask", "causal_mask", "tril"),
            *("cos_cached", "sin_cached", "freqs_cis"),
        )
    )
}
"""Last parts of names that are buffers, which no optimizer has, in torch's order."""

_DIGITS: Final = re.compile(r"([0-9]+)")
_RECURRENT: Final = re.compile(r"(weight|bias)_(ih|hh|hr)_l([0-9]+)(_reverse)?")
"""Of LSTM, GRU and RNN, whose order is by layer, then weights, then biases."""

_CACHED: Final = 4096
"""Last parts of names, of which a model has few, each of them often."""

Natural = tuple[str | int, ...]


def natural(part: str) -> Natural:
    """Orders texts with numbers in them by the numbers: ``layer2`` before ``layer10``."""
    if part.isascii() and part.isdecimal():  # of tens of thousands of layers these are most
        return "", int(part[:18]), ""
    return tuple(
        int(piece[:18]) if number % 2 else piece for number, piece in enumerate(_DIGITS.split(part))
    )


def is_buffer(name: str) -> bool:
    """Whether it is the name of something that no optimizer has, such as running statistics."""
    return name.rpartition(".")[2] in _BUFFERS


def usual_place(part: str, beside: Collection[str]) -> tuple[int, Natural, int]:
    """Where a module stands among its siblings, to sort them by.

    Args:
        part: what it is called.
        beside: what they are called.
    """
    if part.isdecimal():
        return 1, natural(part), 0
    low = part.lower()
    if found := _BATCH_NORM.fullmatch(low):
        for mate in _MATES:
            if f"{mate}{found[1]}" in beside:
                place, name, _ = usual_place(f"{mate}{found[1]}", beside)
                return place, name, 1
    place = 0 if _FIRST.fullmatch(low) else 3 if _LAST.fullmatch(low) else 1
    if _DECODER.fullmatch(low):
        place = 2
    return place, natural(part), 0


@lru_cache(_CACHED)
def own_place(part: str) -> tuple[bool, tuple[int, ...], Natural]:
    """Where a tensor stands among those of its own module: weight, bias, then buffers."""
    if found := _RECURRENT.fullmatch(part):
        order = (
            int(found[3][:18]),
            found[4] is not None,
            found[1] == "bias",
            "ih hh hr".index(found[2]),
        )
        return False, order, ()
    return (
        part in _BUFFERS,
        (_BUFFERS.get(part, 0),),
        (*natural(part.replace("bias", "weight")), "bias" in part),
    )


@lru_cache(_CACHED)
def in_chain(part: str) -> str:
    """What names that differ by numbers alone have in common; a bias goes with its weight.

    Such names stand in one order in every model: by number, and the weight before the bias.
    """
    if _RECURRENT.fullmatch(part):
        return "recurrent"
    if part.isascii() and part.isdecimal():
        return "#"
    return _DIGITS.sub("#", part.replace("bias", "weight"))
