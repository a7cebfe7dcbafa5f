"""Models that take several arguments, or none: what is made up is told by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.errors import ModelError
from gradscope.inputs import inferred_batches


def first(model: nn.Module) -> Any:
    return next(iter(inferred_batches(model)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.image, self.linear = (
            nn.Embedding(9, 4),
            nn.Conv2d(3, 4, 3),
            nn.Linear(4, 2),
        )


class Masked(Two):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.table(input_ids) * attention_mask[..., None]
        return self.linear(embedded.sum(1) / lengths[:, None])  # type: ignore[no-any-return]


class ImageAndText(Two):
    def forward(self, pixel_values: Tensor, input_ids: Tensor, *, scale: float = 1) -> Tensor:
        images, texts = self.image(pixel_values).mean((2, 3)), self.table(input_ids).mean(1)
        return self.linear(images + scale * texts)  # type: ignore[no-any-return]


class Denoiser(Two):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.image(x) + torch.sin(t.float())[:, None, None, None]  # type: ignore[no-any-return]


class Graph(Two):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        raise AssertionError("never called")


class Nothing(Two):
    def forward(self) -> Tensor:
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Masked, {"input_ids": (32, 16), "attention_mask": (32, 16), "lengths": (32,)}),
        (ImageAndText, {"pixel_values": (32, 3, 32, 32), "input_ids": (32, 16)}),
        (Denoiser, {"x": (32, 3, 32, 32), "t": (32,)}),
        (
            lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            {"src": (32, 16, 8), "tgt": (32, 16, 8)},
        ),
        (
            lambda: nn.MultiheadAttention(8, 2, batch_first=True),
            dict.fromkeys(("query", "key", "value"), (32, 16, 8)),
        ),
    ],
)
def test_arguments_of_known_names(
    model: Callable[[], nn.Module], shapes: dict[str, tuple[int, ...]]
) -> None:
    built = model()
    batch = first(built)
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == shapes
    built(**batch)


def test_an_argument_of_an_unknown_name_is_told() -> None:
    with pytest.raises(ModelError) as caught:
        inferred_batches(Graph())
    assert str(caught.value) == (
        "Graph.forward() needs 'x', 'edge_index', and no 'edge_index' can be made up; give batches "
        "with --data FILE.py:NAME (from Python: batches=), as mappings with the keys x, edge_index."
    )


def test_what_takes_nothing_is_told() -> None:
    with pytest.raises(ModelError, match=r"Nothing\.forward\(\) takes no input"):
        inferred_batches(Nothing())


def test_a_wrapped_model_takes_what_the_one_inside_takes() -> None:
    assert first(nn.DataParallel(nn.Conv2d(3, 4, 3))).shape == (32, 3, 32, 32)
    assert set(first(nn.DataParallel(Denoiser()))) == {"x", "t"}


def test_an_optional_first_argument_is_given() -> None:
    class Optional(Two):
        def forward(self, input_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            return self.linear(self.table(input_ids))  # type: ignore[no-any-return]

    assert first(Optional()).shape == (32, 16)
