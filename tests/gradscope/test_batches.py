"""Batches of every make: moved, halved, and the loss that an output carries."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from transformers import BatchEncoding
from transformers.modeling_outputs import SequenceClassifierOutput

from gradscope.batches import half, outermost, own_loss, tensors_in, to_device

Pair = namedtuple("Pair", "inputs targets")


@dataclass(frozen=True)
class Record:
    inputs: Tensor
    names: list[str]
    scale: float = 1.0
    made: int = field(init=False, default=3)


class Holder(dict[str, Any]):
    """A mapping with something beside its entries."""

    note = ""


def rows(count: int, *shape: int) -> Tensor:
    return (
        torch.arange(count, dtype=torch.float32).reshape(-1, *[1] * len(shape)).expand(-1, *shape)
    )


# --- Halves -----------------------------------------------------------------------------------


def structures(samples: int) -> st.SearchStrategy[Any]:
    leaves = st.lists(st.integers(1, 3), max_size=2).map(lambda shape: rows(samples, *shape))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1),
            st.lists(inner, min_size=1, max_size=3),
            st.tuples(inner, inner),
            st.builds(Pair, inner, inner),
            st.builds(lambda item: BatchEncoding({"input_ids": item}), inner),
        ),
        max_leaves=6,
    )


@given(st.data(), st.integers(2, 7))
def test_half_of_any_structure_holds_every_second_sample(data: Any, samples: int) -> None:
    batch = data.draw(structures(samples))
    part = half(batch)
    assert type(part) is type(batch)
    for tensor, whole in zip(tensors_in(part), tensors_in(batch), strict=True):
        assert torch.equal(tensor, whole[0 : samples - samples % 2 : 2])


@given(st.integers(-1, 1))
def test_less_than_two_samples_cannot_be_split(samples: int) -> None:
    batch = torch.tensor(1.0) if samples < 0 else torch.zeros(samples, 3)
    assert half(batch) is None
    assert half({"x": batch}) is None


def test_what_has_no_samples_is_taken_over() -> None:
    table = torch.zeros(1, 9)
    batch = {
        "x": rows(5, 2),
        "position_ids": table,
        "temperature": torch.tensor(2.0),
        "labels": np.arange(5),
        "boxes": [{"box": number} for number in range(5)],
        "names": ("a", "b", "c", "d", "e"),
        "pair": (rows(5), rows(5, 3)),
        "return_loss": True,
        "text": "five!",
    }
    one = half(batch) or {}
    assert one["position_ids"] is table
    assert float(one["temperature"]) == 2
    assert one["labels"].tolist() == [0, 2]
    assert one["boxes"] == [{"box": 0}, {"box": 2}]
    assert one["names"] == ("a", "c")
    assert [len(tensor) for tensor in one["pair"]] == [2, 2]
    assert (one["return_loss"], one["text"]) == (True, "five!")
    assert len(batch["boxes"]) == 5, "the batch itself is left alone"  # type: ignore[arg-type]


def test_a_pair_of_two_samples_is_no_list_of_samples() -> None:
    one = half((rows(2, 3), rows(2))) or ()
    assert [tuple(tensor.shape) for tensor in one] == [(1, 3), (1,)]
    held = half({"x": (rows(2, 3), rows(2))}) or {}
    assert [tuple(tensor.shape) for tensor in held["x"]] == [(1, 3), (1,)]


def test_the_type_is_kept() -> None:
    holder = Holder(x=rows(4))
    holder.note = "kept"
    one = half(holder) or Holder()
    assert (type(one), one.note, len(one["x"]), len(holder["x"])) == (Holder, "kept", 2, 4)
    record = Record(rows(4, 2), ["a", "b", "c", "d"])
    other = half(record) or record
    assert (type(other), other.names, other.scale, other.made) == (Record, ["a", "c"], 1.0, 3)
    for batch in (OrderedDict(x=rows(4)), BatchEncoding({"x": rows(4)})):
        part = half(batch) or {}
        assert type(part) is type(batch)
        assert isinstance(part, Mapping)
    frozen = half(MappingProxyType({"x": rows(4)})) or {}
    assert len(frozen["x"]) == 2
    output = half(SequenceClassifierOutput(logits=rows(4, 2)))
    assert output.logits is output["logits"]
    assert len(output.logits) == 2


def test_packed_sequences_are_not_halved() -> None:
    assert half(pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)])) is None


# --- Moving -----------------------------------------------------------------------------------


def test_every_make_of_batch_is_moved() -> None:
    packed = pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)])
    batch = (
        Record(rows(2), ["a", "b"]),
        BatchEncoding({"input_ids": rows(2)}),
        SequenceClassifierOutput(logits=rows(2)),
        Holder(x=rows(2)),
        packed,
    )
    moved = to_device(batch, "meta")
    assert [type(item) for item in moved] == [type(item) for item in batch]
    assert moved[0].names == ["a", "b"]
    assert all(tensor.is_meta for tensor in tensors_in(moved[:4]))
    assert moved[4].data.is_meta
    assert not any(tensor.is_meta for tensor in tensors_in(batch))


# --- A loss of its own --------------------------------------------------------------------------

LOSS, LOGITS = torch.tensor(2.5), torch.zeros(4, 3)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        LOSS,
        {"logits": LOGITS, "loss": LOSS},
        SequenceClassifierOutput(loss=LOSS, logits=LOGITS),
        Output(LOGITS, LOSS),
        (LOGITS, LOSS),
        [LOSS, LOGITS, torch.tensor(1.0)],
        (LOGITS, torch.tensor(3), LOSS),
        namedtuple("Named", "loss logits")(LOSS, LOGITS),
    ],
)
def test_the_loss_of_an_output(output: Any) -> None:
    assert own_loss(output) is LOSS


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        torch.tensor(3),
        None,
        "text",
        {"logits": LOGITS, "loss": None},
        {"logits": LOGITS, "accuracy": LOSS},
        {"loss": LOGITS},
        SequenceClassifierOutput(logits=LOGITS),
        Output(LOGITS),
        (LOGITS, (LOSS,)),
        (),
    ],
)
def test_an_output_without_a_loss(output: Any) -> None:
    assert own_loss(output) is None


def test_the_outermost_tensors() -> None:
    a, b = torch.zeros(1), torch.zeros(2)
    assert outermost({"a": a, "hidden": (b, b), "b": b}) == [a, b]
    assert outermost(((a, b), None)) == [a]
    assert outermost(Output(a)) == [a]
    assert outermost(None) == []
