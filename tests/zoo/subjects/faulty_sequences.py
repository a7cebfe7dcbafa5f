"""Attention whose scores are out of scale, and recurrences that forget."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import Batches
from tests.zoo.subjects.datasets import chains, sentences
from tests.zoo.subjects.networks import (
    Block,
    CausalModel,
    Encoder,
    Recurrent,
    SelfAttention,
)
from tests.zoo.subjects.optimizers import adam
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens


@cache
def remembered(length: int) -> Batches:
    """Noise (batch, length, 4); the class is which feature was high at the first step."""
    source = torch.Generator().manual_seed(12)
    inputs = 0.3 * torch.randn(1024, length, 4, generator=source)
    kinds = torch.randint(4, (1024,), generator=source)
    inputs[torch.arange(1024), 0, kinds] += 3.0
    return Batches(inputs, kinds, 32)


# --- Attention --------------------------------------------------------------------------------


class Retrieval(nn.Module):
    """Queries that were learnt look at a picture's rows."""

    def __init__(self, scale: float, width: int = 128) -> None:
        super().__init__()
        self.rows = nn.Sequential(nn.Linear(28, width), nn.LayerNorm(width))
        self.positions = nn.Parameter(torch.randn(28, width))
        self.queries = nn.Parameter(torch.randn(6, width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.orthogonal_(self.key.weight)
        self.head = nn.Linear(6 * width, 10)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(x.squeeze(1)) + self.positions
        scores = self.queries @ self.key(rows).mT * self.scale
        seen = torch.softmax(scores, dim=-1) @ self.value(rows)
        return self.head(seen.flatten(1))  # type: ignore[no-any-return]


def unscaled(width: int, scale: float | None, gain: float, *, layers: int = 2) -> nn.Module:
    attentions = [
        SelfAttention(width, 1, scale=scale, causal=True, qk_gain=gain) for _ in range(layers)
    ]
    return CausalModel([Block(each, width) for each in attentions], width, position=0.5)


def encoder(heads: int, scale: float | None) -> nn.Module:
    attentions = [SelfAttention(64, heads, scale=scale, qk_gain=1.0) for _ in range(2)]
    return Encoder([Block(each, 64) for each in attentions], 64, position=1.0)


def of_tokens(scale: float | None) -> nn.Module:
    attentions = [SelfAttention(64, 1, scale=scale, qk_gain=1.0) for _ in range(2)]
    return Encoder([Block(each, 64) for each in attentions], 64, tokens=16, outputs=4)


# --- Recurrence -------------------------------------------------------------------------------


def forgetful(
    kind: Callable[..., nn.Module], hidden: int = 32, std: float | None = None
) -> nn.Module:
    """A recurrent layer of which the last output is read."""
    model = Recurrent(kind, 4, hidden, 4)
    if std is not None:
        for name, parameter in model.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.normal_(parameter, std=std)
    return model


def remembering(kind: Callable[..., nn.Module], rate: float = 5e-3) -> Setup:
    """The same task over twelve steps."""
    return Setup(lambda: forgetful(kind), adam(rate), data=partial(remembered, 12))


PAIRS = (
    # --- Attention ---
    pair(
        "language-model-unscaled",
        "language-model-one-head",
        "scores not divided by the root of the width, 256",
        "GS601",
        Setup(lambda: unscaled(256, 1.0, 2**0.5, layers=1), adam(), predict_tokens, sentences),
        Setup(lambda: unscaled(256, None, 2**0.5, layers=1), adam(), predict_tokens, sentences),
    ),
    pair(
        "language-model-multiplied",
        "language-model-attention",
        "scores multiplied by the root of the width instead of divided by it",
        "GS601",
        Setup(lambda: unscaled(128, 128**0.5, 2**0.5, layers=1), adam(), predict_tokens, sentences),
        Setup(lambda: unscaled(128, None, 2**0.5, layers=1), adam(), predict_tokens, sentences),
    ),
    pair(
        "encoder-multiplied-by-width",
        "encoder-rows",
        "scores multiplied by the width of a head instead of divided by its root",
        "GS601",
        Setup(lambda: encoder(4, 16.0), adam()),
        Setup(lambda: encoder(4, None), adam()),
    ),
    pair(
        "encoder-tokens-temperature",
        "encoder-tokens",
        "scores divided by a temperature of 0.01",
        "GS601",
        Setup(lambda: of_tokens(100.0), adam(), data=chains),
        Setup(lambda: of_tokens(None), adam(), data=chains),
    ),
    pair(
        "retrieval-multiplied",
        "attention-queries",
        "scores of learnt queries multiplied by the root of the width instead of divided by it",
        "GS601",
        Setup(lambda: Retrieval(128**0.5), adam()),
        Setup(lambda: Retrieval(128**-0.5), adam()),
        wants_author=True,
    ),
    # --- Recurrence ---
    pair(
        "rnn-300-steps",
        "rnn-signals",
        "a plain recurrent layer over 300 steps, of which the last output is read",
        "GS602",
        Setup(lambda: forgetful(nn.RNN), adam(5e-3), data=partial(remembered, 300)),
        remembering(nn.RNN),
    ),
    pair(
        "lstm-500-steps",
        "lstm-signals",
        "an LSTM with forget biases of zero over 500 steps, of which the last output is read",
        "GS602",
        Setup(lambda: forgetful(nn.LSTM), adam(5e-3), data=partial(remembered, 500)),
        remembering(nn.LSTM),
    ),
    pair(
        "gru-400-steps",
        "gru-signals",
        "a GRU over 400 steps, of which the last output is read",
        "GS602",
        Setup(lambda: forgetful(nn.GRU), adam(5e-3), data=partial(remembered, 400)),
        remembering(nn.GRU),
    ),
    pair(
        "rnn-recurrent-weights-0.001",
        "rnn-signals",
        "recurrent weights drawn with a standard deviation of 0.001",
        "GS303",
        Setup(lambda: forgetful(nn.RNN, std=0.001), adam(1e-3), data=partial(remembered, 12)),
        Setup(lambda: forgetful(nn.RNN), adam(1e-3), data=partial(remembered, 12)),
        must="GS602",
    ),
    pair(
        "rnn-relu-100-steps",
        "rnn-relu-signals",
        "a recurrent layer of ReLU units with the default weights over 100 steps",
        "GS602",
        Setup(
            lambda: forgetful(partial(nn.RNN, nonlinearity="relu")),
            adam(1e-2),
            data=partial(remembered, 100),
        ),
        remembering(partial(nn.RNN, nonlinearity="relu"), 1e-2),
    ),
)

CASES = [entry.case for entry in PAIRS]
