"""Inputs that are found out from the model alone: which, that they pass, and that nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.batches import tensors_in
from gradscope.errors import ModelError
from gradscope.subject import Subject
from gradscope.synthetic import inferred_batches


class With(nn.Module):
    """Parts under their names, and what is done with them."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def lenet(channels: int, features: int) -> list[nn.Module]:
    return [
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(features, 10)),
    ]


def by_stride(*strides: int) -> list[nn.Module]:
    """Each layer halves the image, or more."""
    layers: list[nn.Module] = []
    for number, stride in enumerate(strides):
        layers += [nn.Conv2d(8 if number else 3, 8, 3, stride, 1), nn.BatchNorm2d(8), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]


def patches(size: int, patch: int, width: int = 16) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.weight.expand(len(x), 1, -1), tokens], 1)
        return self.head(self.block(tokens + self.pos_embed)[:, 0])  # type: ignore[no-any-return]

    model = With(
        forward,
        embed=nn.Conv2d(3, width, patch, patch),
        cls=nn.Embedding(1, width),
        block=nn.TransformerEncoderLayer(width, 2, 32, batch_first=True),
        head=nn.Linear(width, 10),
    )
    model.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
    return model


def cut_up(x: Tensor) -> Tensor:
    """Images as rows of 4 x 4 patches of 3 channels, before any layer has seen them."""
    return (
        nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
        if x.shape[1] == 3
        else x.new_zeros(0, 0, 0, 1)
    )


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, **options)


def tokens(table: nn.Embedding, body: nn.Module, **parts: nn.Module) -> nn.Module:
    return With(lambda self, x: self.body(self.table(x)), table=table, body=body, **parts)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet for 32": (lambda: nn.Sequential(*lenet(3, 400)), (32, 3, 32, 32)),
    "lenet for 28": (lambda: nn.Sequential(nn.ZeroPad2d(2), *lenet(1, 400)), (32, 1, 28, 28)),
    "a view that mixes samples": (
        lambda: With(
            lambda self, x: self.head(self.body(x).view(-1, 400)),
            body=nn.Sequential(*lenet(3, 400)[:-2]),
            head=nn.Linear(400, 10),
        ),
        (32, 3, 32, 32),
    ),
    "32 pixels to one": (lambda: nn.Sequential(*by_stride(2, 2, 2, 2, 2, 1)), (32, 3, 64, 64)),
    "only 224": (lambda: patches(224, 32), (8, 3, 224, 224)),
    "patches": (lambda: patches(40, 8), (32, 3, 40, 40)),
    "patches before any layer": (
        lambda: With(
            lambda self, x: self.head(self.body(cut_up(x)).mean(1)),
            body=nn.Sequential(nn.Linear(48, 16), nn.GELU()),
            head=nn.Linear(16, 10),
        ),
        (32, 3, 32, 32),
    ),
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 5), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        (32, 2, 64),
    ),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        (32, 1, 8, 32, 32),
    ),
    "generator": (
        lambda: nn.Sequential(nn.ConvTranspose2d(10, 4, 4), nn.ConvTranspose2d(4, 3, 4, 2, 1)),
        (32, 10, 1, 1),
    ),
    "tabular": (lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2)), (32, 20)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 8)), (32, 784)),
    "head registered first": (
        lambda: With(
            lambda self, x: self.head(self.body(x).mean((2, 3))),
            head=nn.Linear(24, 10),
            body=nn.Conv2d(3, 24, 3),
        ),
        (32, 3, 32, 32),
    ),
    "linear, then attention": (
        lambda: nn.Sequential(nn.Linear(6, 16), encoder(batch_first=True)),
        (32, 16, 6),
    ),
    "attention by hand": (
        lambda: With(
            lambda self, x: nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), x),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
        ),
        (32, 16, 8),
    ),
    "tokens": (lambda: tokens(nn.Embedding(50, 8), nn.Linear(8, 50)), (32, 16)),
    "three tokens": (
        lambda: nn.Sequential(nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 27)),
        (32, 3),
    ),
    "bag": (lambda: nn.Sequential(nn.EmbeddingBag(100, 8), nn.Linear(8, 2)), (32, 16)),
    "lstm": (lambda: nn.LSTM(8, 16), (16, 32, 8)),
    "lstm, batch first": (lambda: nn.LSTM(8, 16, batch_first=True), (32, 16, 8)),
    "gru, transposed inside": (
        lambda: With(
            lambda self, x: self.head(self.body(x.transpose(0, 1))[0][-1]),
            body=nn.GRU(8, 16),
            head=nn.Linear(16, 2),
        ),
        (32, 16, 8),
    ),
    "rnn, last step": (
        lambda: With(
            lambda self, x: self.head(self.body(x)[0][-1]),
            body=nn.RNN(8, 16),
            head=nn.Linear(16, 2),
        ),
        (16, 32, 8),
    ),
    "cell": (lambda: nn.GRUCell(4, 5), (32, 4)),
    "encoder layer": (lambda: encoder(batch_first=True), (32, 16, 16)),
    "encoder layer, length first": (lambda: encoder(), (16, 32, 16)),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 3)), (32, 12)),
    "batch norm of images": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.Flatten()),
        (32, 3, 32, 32),
    ),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 3)), (32, 12)),
}


def first(model: nn.Module) -> Any:
    return next(iter(inferred_batches(model)))


@pytest.mark.parametrize(("build", "shape"), MODELS.values(), ids=MODELS)
def test_what_a_model_takes(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build()
    batch = first(model)
    assert tuple(batch.shape) == shape
    model.train()(batch)


@pytest.mark.parametrize("first_table", [8, 64])
def test_positions_that_are_registered_before_the_tokens(first_table: int) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.head(self.ids(x) + self.pos(torch.arange(x.shape[1])))  # type: ignore[no-any-return]

    model = With(
        forward, pos=nn.Embedding(first_table, 4), ids=nn.Embedding(30, 4), head=nn.Linear(4, 30)
    )
    batch = first(model)
    assert batch.shape == (32, min(16, first_table))
    assert (batch.dtype, int(batch.max())) == (torch.int64, 29)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_models_type(dtype: torch.dtype) -> None:
    assert first(nn.Linear(4, 3).to(dtype)).dtype is dtype


def test_the_same_batches_on_every_pass_without_touching_the_generators() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    batches = inferred_batches(model)
    one, two = list(batches), list(batches)
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    assert not torch.equal(one[0], one[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# --- Several arguments ----------------------------------------------------------------------------


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


def test_what_takes_nothing_or_is_not_there_yet_is_told() -> None:
    with pytest.raises(ModelError, match=r"Nothing\.forward\(\) takes no input"):
        inferred_batches(Nothing())
    with pytest.raises(ModelError, match="lazy layers without weights"):
        inferred_batches(nn.Sequential(nn.LazyLinear(3)))


def test_a_model_that_fails_only_in_training_is_not_taken() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if self.training and x.shape[-1] < 64:
            raise ValueError("too small for the auxiliary head")
        return self.body(x).mean((2, 3))  # type: ignore[no-any-return]

    assert first(With(forward, body=nn.Conv2d(3, 8, 3))).shape == (32, 3, 64, 64)


def test_a_model_that_mixes_its_samples_on_purpose_is_taken() -> None:
    model = With(
        lambda self, x: nn.functional.normalize(y := self.f(x)) @ nn.functional.normalize(y).T,
        f=nn.Linear(5, 4),
    )
    assert first(model).shape == (32, 5)


# --- Scans ----------------------------------------------------------------------------------------


def test_a_models_own_loss_is_used_without_data() -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"loss": super().forward(x).square().mean() + 100}

    def unused(output: Any, batch: Any) -> Tensor:
        raise AssertionError("there are no targets for it")

    report = gradscope.scan(Subject.of(Own(4, 3), None, unused))
    assert report.profile is not None
    assert report.profile.source == "synthetic"
    assert min(report.profile.losses) > 100


@pytest.mark.gpu
def test_on_the_models_device() -> None:
    model = tokens(nn.Embedding(50, 8), nn.Linear(8, 50), positions=nn.Embedding(4, 8)).cuda()
    assert all(tensor.is_cuda for tensor in tensors_in(first(model)))


def test_a_wrapped_model_takes_what_the_one_inside_takes() -> None:
    assert first(nn.DataParallel(nn.Conv2d(3, 4, 3))).shape == (32, 3, 32, 32)
    assert set(first(nn.DataParallel(Denoiser()))) == {"x", "t"}


def test_an_optional_first_argument_is_given() -> None:
    class Optional(Two):
        def forward(self, input_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            return self.linear(self.table(input_ids))  # type: ignore[no-any-return]

    assert first(Optional()).shape == (32, 16)
