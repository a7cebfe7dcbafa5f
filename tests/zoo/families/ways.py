"""Single ways to write a forward pass, each in the smallest model that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.families.entry import Family, cross_entropy, pairs, tokens


class Way(nn.Module):
    """A function as a model: it is given the model's parts before the inputs."""

    def __init__(self, way: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.way = way
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.way(self, *inputs)


class MishByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(functional.softplus(x))


class HardswishInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * functional.relu6(x + 3, inplace=True) / 6


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(torch.tanh(x))


class Core(nn.Module):
    """Attention without parameters of its own."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class Tanhed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class OwnReLU(nn.ReLU):
    pass


def overwritten(self: Any, x: Tensor) -> Tensor:
    """What has been observed is changed afterwards, in place."""
    y = self.first(x)
    y[:, 0] = 0
    y = functional.gelu(y)
    y *= 0.5
    y = self.second(y).tanh() * 1.0
    y[:, 1:3].mul_(2)
    return self.head(y)


def teacher(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    student = self.predict(torch.relu(self.student(x)))
    with torch.no_grad():
        return student, torch.relu(self.teacher(x))


def quantised(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = self.encode(x)
    nearest = self.codes(torch.cdist(z, self.codes.weight).argmin(dim=1))
    return self.head(z + (nearest - z).detach()), nearest, z


def codes_loss(output: tuple[Tensor, Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    logits, nearest, z = output
    return cross_entropy(logits, batch) + (nearest - z.detach()).square().mean()


def stochastic_depth(self: Any, x: Tensor) -> Tensor:
    h = self.stem(x)
    for layer in self.layers:
        if torch.rand(()) < 0.5:
            h = h + torch.tanh(layer(h))
    return self.head(h)


def autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.body(x)


def seq2seq(self: Any, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    y = self.body(self.source(x), self.target(x), tgt_mask=mask, tgt_is_causal=True)
    return self.head(y.mean(dim=1))


def packed(self: Any, x: Tensor) -> Tensor:
    lengths = torch.arange(len(x)) % 4 + 2
    sequence = nn.utils.rnn.pack_padded_sequence(x, lengths, True, False)
    y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(sequence)[0], batch_first=True)
    return self.head(y.sum(dim=1))


def closed_row(self: Any, x: Tensor) -> Tensor:
    """A query that may look at nothing: its weights are NaN, and replaced."""
    scores = self.key(x) @ x.transpose(1, 2)
    closed = torch.ones(5, 5, dtype=torch.bool).triu(1)
    closed[2] = True
    weights = torch.softmax(scores.masked_fill(closed, -torch.inf), -1)
    return self.head((torch.nan_to_num(weights) @ x).mean(dim=1))


def fused_closed_row(self: Any, x: Tensor) -> Tensor:
    opened = torch.ones(5, 5, dtype=torch.bool).tril()
    opened[3] = False
    y = functional.scaled_dot_product_attention(self.key(x), self.key(x), x, opened, 0.2)
    return self.head(y.nan_to_num().mean(dim=1))


def force(self: Any, x: Tensor) -> Tensor:
    """An energy and its gradient, as force fields and physics-informed networks have them."""
    x = x.detach().requires_grad_()
    energy = self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return torch.cat([energy, gradient], dim=1)


class Recursive(nn.Module):
    """Calls itself, as tree networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        h = torch.tanh(self.layer(x))
        return self.gain * h if depth == 0 else self(h, depth - 1)


class Listed(nn.Module):
    """Parameters of its own, and an output that is a list of more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> list[Any]:
        return [x @ self.weight, None, {"sum": x.sum()}]


def gate_of_the_mean(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x)
    y = y * torch.sigmoid(self.gate(y.mean(dim=(2, 3))))[:, :, None, None]
    return self.head(y.relu().flatten(1))


def frames(self: Any, x: Tensor) -> Tensor:
    """A convolution on every frame: samples times frames stand where samples stood."""
    y = self.layer(x.flatten(0, 1)).relu().mean(dim=(2, 3))
    return self.head(y.unflatten(0, x.shape[:2]).mean(dim=1))


def body() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)
    )


L = nn.Linear
POINTS, ROWS, FIELDS = pairs(6), pairs(5, 4), pairs(3, 6, 6)

FAMILIES = (
    Family("overwritten", lambda: Way(overwritten, first=L(6, 8), second=L(8, 8), head=L(8, 3)),
        POINTS),
    Family("teacher", lambda: Way(teacher, student=L(6, 8), predict=L(8, 8), teacher=L(6, 8)),
        POINTS, loss=lambda output, batch: (output[0] - output[1]).square().mean(),
        depths={"::relu@1": 1}),
    Family("straight-through", lambda: Way(quantised, encode=L(6, 4), codes=nn.Embedding(5, 4),
        head=L(4, 3)), POINTS, codes_loss),
    Family("stochastic-depth", lambda: Way(stochastic_depth, stem=L(6, 8), head=L(8, 3),
        layers=nn.ModuleList(L(8, 8) for _ in range(6))), POINTS),
    Family("autocast", lambda: Way(autocast, body=body()), POINTS,
        loss=lambda output, batch: cross_entropy(output.float(), batch)),
    Family("seq2seq", lambda: Way(seq2seq, source=L(4, 8), target=L(4, 8), head=L(8, 3),
        body=nn.Transformer(8, 2, 1, 1, 12, batch_first=True)), ROWS, attention=True),
    Family("padding-mask", lambda: Way(lambda self, x: self.head(self.layer(self.stem(x),
        src_key_padding_mask=x[:, :, 0] > 1).mean(dim=1)), stem=L(4, 8), head=L(8, 3),
        layer=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)), ROWS, attention=True),
    Family("embedding-max-norm", lambda: Way(lambda self, x: self.head(self.table(x).mean(dim=1)),
        table=nn.Embedding(13, 6, max_norm=1.0, padding_idx=0), head=L(6, 3)), tokens(5)),
    Family("bilinear", lambda: Way(lambda self, x: self.head(self.pair(x, x).relu()),
        pair=nn.Bilinear(6, 6, 5), head=L(5, 3)), POINTS),
    Family("packed-sequence", lambda: Way(packed, lstm=nn.LSTM(4, 5, batch_first=True),
        head=L(5, 3)), pairs(7, 4)),
    Family("attention-core", lambda: Way(lambda self, x: self.head(self.core(self.query(x),
        self.key(x), x).mean(dim=1)), query=L(4, 4), key=L(4, 4), core=Core(), head=L(4, 3)),
        ROWS),
    Family("softmax-in-float64", lambda: Way(lambda self, x: self.head(functional.softmax(
        self.layer(x), 2, dtype=torch.float64).float().flatten(1)), layer=L(4, 5), head=L(25, 3)),
        ROWS),
    Family("closed-row", lambda: Way(closed_row, key=L(4, 4), head=L(4, 3)), ROWS),
    Family("closed-row-fused", lambda: Way(fused_closed_row, key=L(4, 4), head=L(4, 3)), ROWS,
        attention=True),
    Family("cross-attention", lambda: Way(lambda self, x: self.head(self.layer(self.query(x),
        x[:, :, :3], x, average_attn_weights=False)[0].mean(dim=1)), query=L(4, 8), head=L(8, 3),
        layer=nn.MultiheadAttention(8, 2, 0.1, kdim=3, vdim=4, add_bias_kv=True,
        batch_first=True)), ROWS),
    Family("force", lambda: Way(force, first=L(6, 8), second=L(8, 8), last=L(8, 1)), POINTS,
        loss=lambda output, batch: (output - 1).square().mean()),
    Family("recursive", lambda: Way(lambda self, x: self.head(self.tree(x)), tree=Recursive(),
        head=L(6, 3)), POINTS, shows=("tree.layer@2", "tree")),
    Family("list-of-outputs", lambda: Way(lambda self, x: self.head(self.layer(x)[0].relu()),
        layer=Listed(), head=L(8, 3)), POINTS, shows=("layer",)),
    Family("hypernetwork", lambda: Way(lambda self, x: self.head(torch.bmm(self.weights(x).view(
        -1, 4, 6), x[:, :, None])[:, :, 0].relu()), weights=L(6, 24), head=L(4, 3)), POINTS),
    # --- layouts that are followed ---
    Family("positions-last", lambda: Way(lambda self, x: self.head(self.layer(x.transpose(1, 2))
        .transpose(1, 2).relu().mean(dim=1)), layer=nn.Conv1d(4, 6, 3), head=L(6, 3)),
        pairs(7, 4), units_at_1=("layer",)),
    Family("pixel-shuffle", lambda: Way(lambda self, x: self.last(functional.pixel_shuffle(
        self.first(x), 2).relu()).mean(dim=(2, 3)), first=nn.Conv2d(3, 8, 3),
        last=nn.Conv2d(2, 3, 3)), FIELDS, units_at_1=("*",)),
    Family("einsum", lambda: Way(lambda self, x: self.head(torch.einsum("bchw->bhwc",
        self.layer(x)).sigmoid().mean(dim=(1, 2))), layer=nn.Conv2d(3, 8, 3), head=L(8, 3)),
        FIELDS, units_at_1=("layer",)),
    Family("movedim", lambda: Way(lambda self, x: self.head(self.layer(x).movedim(1, -1).sigmoid()
        .mean(dim=(1, 2))), layer=nn.Conv2d(3, 8, 3), head=L(8, 3)), FIELDS,
        units_at_1=("layer",)),
    Family("transposed-matrix", lambda: Way(lambda self, x: self.head(torch.tanh(self.layer(x).mT)
        .mT.mean(dim=1)), layer=L(4, 6), head=L(6, 3)), ROWS, units_at_1=("::tanh@0",)),
    Family("flattened", lambda: Way(lambda self, x: self.head(torch.sigmoid(self.layer(x)
        .view(len(x), -1))), layer=nn.Conv2d(3, 4, 3), head=L(64, 3)), FIELDS,
        units_at_1=("layer",)),
    Family("sequence-first", lambda: Way(lambda self, x: self.head(torch.tanh(self.layer(
        x.transpose(0, 1))).mean(dim=0)), layer=L(4, 6), head=L(6, 3)), pairs(7, 4),
        samples_at_1=("layer", "::tanh@0")),
    Family("rows-of-all-samples", lambda: Way(lambda self, x: self.head(torch.relu(self.layer(
        x.reshape(-1, 4)).view(len(x), -1, 6)).mean(dim=1)), layer=L(4, 6), head=L(6, 3)),
        pairs(7, 4)),
    Family("frames", lambda: Way(frames, layer=nn.Conv2d(2, 4, 3), head=L(4, 3)),
        pairs(3, 2, 5, 5), units_at_1=("layer", "::relu@0")),
    Family("chunks", lambda: Way(lambda self, x: self.head(torch.cat([part.relu() for part in
        self.layer(x).chunk(3, dim=1)], dim=1)), layer=L(6, 9), head=L(9, 3)), POINTS),
    Family("stacked", lambda: Way(lambda self, x: self.head(torch.relu(torch.stack([self.one(x),
        self.other(x)], dim=1)).mean(dim=1)), one=L(6, 9), other=L(6, 9), head=L(9, 3)), POINTS),
    Family("gate-of-the-mean", lambda: Way(gate_of_the_mean, layer=nn.Conv2d(3, 4, 3),
        gate=L(4, 4), head=L(64, 3)), FIELDS, units_at_1=("layer", "::relu@0")),
    Family("one-dimension", lambda: Way(lambda self, x: torch.sigmoid(self.head(self.layer(x)
        .relu()).squeeze(-1)), layer=L(6, 8), head=L(8, 1)), POINTS,
        loss=lambda output, batch: functional.binary_cross_entropy(output, batch[1].sign() * 1.0)),
    Family("square-sequence-first", lambda: Way(lambda self, x: self.head(self.layer(
        x.transpose(0, 1))[0][-1]), layer=nn.RNN(16, 16), head=L(16, 3)), pairs(16, 16),
        samples_at_1=("layer",)),
    Family("square-there-and-back", lambda: Way(lambda self, x: self.head(torch.tanh(self.layer(
        x.transpose(0, 1))).transpose(0, 1).sigmoid().mean(dim=1)), layer=L(16, 16),
        head=L(16, 3)), pairs(16, 16), samples_at_1=("layer", "::tanh@0")),
    Family("square-positions", lambda: Way(lambda self, x: self.head(torch.tanh(self.layer(x)
        .transpose(1, 2)).mean(dim=1)), layer=nn.Conv1d(16, 16, 1), head=L(16, 3)),
        pairs(16, 16), units_at_1=("layer",)),
    # --- activations ---
    Family("mish-by-hand", lambda: nn.Sequential(L(6, 8), MishByHand(), L(8, 3)), POINTS,
        shows=("1::softplus@0", "1::tanh@0", "1")),
    Family("hardswish-in-place", lambda: nn.Sequential(L(6, 8), HardswishInPlace(), L(8, 3)),
        POINTS, shows=("1::relu6@0", "1")),
    Family("activation-of-activation", lambda: nn.Sequential(L(6, 8), Twice(), nn.ReLU(),
        nn.ReLU(), L(8, 3)), POINTS),
    Family("subclassed", lambda: nn.Sequential(Tanhed(6, 8), OwnReLU(), L(8, 3)), POINTS,
        shows=("0::tanh@0", "1")),
    Family("function-with-parameter", lambda: Way(lambda self, x: self.head(functional.prelu(
        self.layer(x), self.slope)), layer=L(6, 8), head=L(8, 3),
        slope=nn.Parameter(torch.full((8,), 0.1))), POINTS),
    Family("activation-of-a-parameter", lambda: Way(lambda self, x: self.head(functional.softplus(
        self.spread) * self.layer(x).relu()), layer=L(6, 8), head=L(8, 3),
        spread=nn.Parameter(torch.randn(8))), POINTS),
    Family("activation-of-the-input", lambda: Way(lambda self, x: self.head(torch.relu(x)),
        head=L(6, 3)), POINTS, depths={"head": 1}),
    Family("bounds-by-name", lambda: Way(lambda self, x: self.head(functional.hardtanh(
        self.layer(x), min_val=-0.1, max_val=0.2) + functional.relu6(20 * self.layer(x))),
        layer=L(6, 8), head=L(8, 3)), POINTS),
    Family("arguments-by-name", lambda: Way(lambda self, x: self.head(input=self.act(input=
        torch.tanh(input=self.layer(input=x))) + functional.softmax(input=x, dim=1)[:, :1]),
        layer=L(6, 8), act=nn.Sigmoid(), head=L(8, 3)), POINTS),
    Family("softmax-over-channels", lambda: Way(lambda self, x: self.head((self.layer(x).softmax(1)
        + self.act(self.layer(x))).mean(dim=(2, 3))), layer=nn.Conv2d(3, 4, 1),
        act=nn.Softmax2d(), head=L(4, 3)), pairs(3, 3, 3), units_at_1=("*",)),
    Family("two-heads", lambda: Way(lambda self, x: (self.one(self.stem(x)), self.other(
        torch.tanh(self.stem(x)))), stem=L(6, 5), one=L(5, 3), other=L(5, 3)), POINTS,
        loss=lambda output, batch: cross_entropy(output[0], batch) + output[1].square().mean()),
    Family("weight-norm-without-bias", lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(
        L(6, 8, bias=False)), nn.Tanh(), L(8, 3)), POINTS, shows=("0",)),
)  # fmt: skip
