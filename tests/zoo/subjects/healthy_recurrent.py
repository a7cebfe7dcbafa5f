"""Healthy recurrent networks on rows of pictures, token sequences and time series."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import chains, images, reversal, sentences, waves
from tests.zoo.subjects.networks import Recurrent
from tests.zoo.subjects.optimizers import adam, clipped, rmsprop, sgd
from tests.zoo.subjects.tasks import classify, fresh_and_trained, predict_tokens, regress

ROWS = partial(images, 14)


class Deep(nn.Module):
    """Two recurrent layers over a picture's rows."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.recurrent = kind(14, 64, batch_first=True, num_layers=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.squeeze(1))[0][:, -1])  # type: ignore[no-any-return]


class CharacterModel(nn.Module):
    """A language model; the output layer starts small, as is usual."""

    def __init__(self, kind: Callable[..., nn.Module], tokens: int = 28, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 32)
        self.recurrent = kind(32, width, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.recurrent(self.embed(x))[0]))  # type: ignore[no-any-return]


class Bidirectional(nn.Module):
    """Reads both ways and keeps the largest value of each feature."""

    def __init__(self, tokens: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, 24)
        self.recurrent = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(x))[0].amax(dim=1))  # type: ignore[no-any-return]


class CellByCell(nn.Module):
    """An LSTM's cell called row by row, its forget gate open at first (Jozefowicz et al. 2015)."""

    def __init__(self, features: int = 14, width: int = 48) -> None:
        super().__init__()
        self.width = width
        self.cell = nn.LSTMCell(features, width)
        self.head = nn.Linear(width, 10)
        with torch.no_grad():
            self.cell.bias_hh[width : 2 * width] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        hidden = memory = x.new_zeros(len(x), self.width)
        for row in x.squeeze(1).unbind(1):
            hidden, memory = self.cell(row, (hidden, memory))
        return self.head(hidden)  # type: ignore[no-any-return]


class GatedByHand(nn.Module):
    """A gated recurrent network in plain linear layers."""

    def __init__(self, features: int = 14, width: int = 48) -> None:
        super().__init__()
        self.width = width
        self.update = nn.Linear(features + width, width)
        self.reset = nn.Linear(features + width, width)
        self.propose = nn.Linear(features + width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.width)
        for row in x.squeeze(1).unbind(1):
            both = torch.cat([row, state], dim=1)
            update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            proposed = torch.tanh(self.propose(torch.cat([row, reset * state], dim=1)))
            state = update * state + (1 - update) * proposed
        return self.head(state)  # type: ignore[no-any-return]


def identity_recurrence() -> nn.Module:
    """ReLU and an identity for a start (Le, Jaitly, Hinton 2015)."""
    model = Recurrent(partial(nn.RNN, nonlinearity="relu"), 14, 64)
    recurrent = model.recurrent
    assert isinstance(recurrent, nn.RNN)
    nn.init.eye_(recurrent.weight_hh_l0)
    nn.init.normal_(recurrent.weight_ih_l0, std=0.05)
    nn.init.zeros_(recurrent.bias_hh_l0)
    nn.init.zeros_(recurrent.bias_ih_l0)
    return model


class Translator(nn.Module):
    """Encoder, decoder, and attention from one to the other (Bahdanau et al. 2015)."""

    def __init__(self, tokens: int = 10, width: int = 48) -> None:
        super().__init__()
        self.start = tokens
        self.source = nn.Embedding(tokens, width)
        self.target = nn.Embedding(tokens + 1, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.mixed = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, tokens)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        shifted = functional.pad(target[:, :-1], (1, 0), value=self.start)
        states, _ = self.decoder(self.target(shifted), last)
        weights = torch.softmax(states @ memory.transpose(1, 2) / memory.shape[2] ** 0.5, dim=2)
        both = torch.cat([states, weights @ memory], dim=2)
        return self.head(torch.tanh(self.mixed(both)))  # type: ignore[no-any-return]


def translate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The true sequence so far is given at every position."""
    logits = model(*batch)
    return functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


def align(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Which walk is walked, as a sequence of one label that may stand anywhere (CTC)."""
    logits = model(batch[0]).log_softmax(dim=2).transpose(0, 1)
    lengths = torch.full((len(batch[0]),), logits.shape[0])
    ones = torch.ones_like(lengths)
    return functional.ctc_loss(logits, batch[1].unsqueeze(1) + 1, lengths, ones)


CASES = (
    *fresh_and_trained("lstm-rows", lambda: Deep(nn.LSTM), adam(2e-3), data=ROWS),
    *fresh_and_trained("gru-rows", lambda: Deep(nn.GRU), adam(2e-3), data=ROWS),
    *fresh_and_trained("rnn-rows", lambda: Deep(nn.RNN), adam(), data=ROWS),
    *fresh_and_trained(
        "lstm-characters",
        lambda: CharacterModel(nn.LSTM),
        clipped(adam(5e-3)),
        step=predict_tokens,
        data=sentences,
    ),
    *fresh_and_trained(
        "gru-characters",
        lambda: CharacterModel(nn.GRU),
        clipped(sgd(1.0, 0.0), 0.5),
        step=predict_tokens,
        data=sentences,
        trained=300,
    ),
    *fresh_and_trained("gru-bidirectional", Bidirectional, adam(3e-3), data=chains),
    *fresh_and_trained("lstm-cell", CellByCell, adam(3e-3), data=ROWS),
    *fresh_and_trained("gru-by-hand", GatedByHand, rmsprop(), data=ROWS),
    *fresh_and_trained(
        "rnn-identity", identity_recurrence, clipped(adam()), step=classify, data=ROWS
    ),
    *fresh_and_trained(
        "lstm-forecast",
        lambda: Recurrent(nn.LSTM, 1, 32, 1),
        adam(5e-3),
        step=regress,
        data=waves,
    ),
    *fresh_and_trained(
        "translator", Translator, adam(5e-3), step=translate, data=reversal, trained=300
    ),
    *fresh_and_trained(
        "ctc", lambda: CharacterModel(nn.LSTM, 16), adam(5e-3), step=align, data=chains
    ),
)
