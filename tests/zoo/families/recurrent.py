"""Recurrent families: modules, cells in a loop, and cells written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.families.entry import Family, adam, pairs, sgd, tokens


class Last(nn.Module):
    """A recurrent module, read at its last step."""

    def __init__(self, recurrent: nn.Module, width: int, first: bool = True) -> None:
        super().__init__()
        self.recurrent, self.head, self.first = recurrent, nn.Linear(width, 3), first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            return self.head(self.recurrent(x)[0][:, -1])
        return self.head(self.recurrent(x.transpose(0, 1))[0][-1])


class Stacked(nn.Module):
    """Two recurrent modules, one on the outputs of the other, and a way around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.LSTM(4, 6, batch_first=True)
        self.upper = nn.GRU(6, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lower(x)[0]
        return self.head((h + self.upper(h)[0])[:, -1])


class OfLengths(nn.Module):
    """Sequences of several lengths, padded behind, each read at its own last step."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        number = torch.arange(len(x))
        return self.head(self.recurrent(x)[0][number, 2 + number % 5])


class Cells(nn.Module):
    """A cell called once for each step of the sequence."""

    def __init__(self, make: Callable[[], nn.Module], pair: bool) -> None:
        super().__init__()
        self.cell, self.head, self.pair = make(), nn.Linear(5, 3), pair

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = self.cell(step) if state is None else self.cell(step, state)
        return self.head(state[0] if self.pair else state)


class Handwritten(nn.Module):
    """An LSTM of matrices and functions, whose gates are one product split in four."""

    def __init__(self) -> None:
        super().__init__()
        self.x2h, self.h2h = nn.Linear(4, 20), nn.Linear(5, 20, bias=False)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), 5)
        for step in x.unbind(1):
            i, f, g, o = (self.x2h(step) + self.h2h(h)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * c.tanh()
        return self.head(h)


class Language(nn.Module):
    """Embedding, two layers of LSTM with dropout between, mean over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 6)
        self.lstm = nn.LSTM(6, 7, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0].mean(dim=1))


def saturated_rnn() -> nn.Module:
    model = Last(nn.RNN(4, 6, batch_first=True), 6)
    with torch.no_grad():
        model.recurrent.bias_ih_l0[:2] = torch.tensor([20.0, -20.0])
    return model


SEQUENCES = pairs(7, 4)

FAMILIES = (
    Family("lstm", lambda: Last(nn.LSTM(4, 6, batch_first=True), 6), SEQUENCES, optimizer=adam),
    Family(
        "lstm-bidirectional",
        lambda: Last(nn.LSTM(4, 5, batch_first=True, bidirectional=True), 10),
        SEQUENCES,
    ),
    Family("gru", lambda: Last(nn.GRU(4, 6, 2, batch_first=True), 6), SEQUENCES, optimizer=sgd),
    Family("lstm-below-gru", Stacked, SEQUENCES, optimizer=adam),
    Family("gru-of-lengths", lambda: OfLengths(nn.GRU(4, 6, batch_first=True), 6), SEQUENCES),
    Family(
        "rnn-of-lengths-bidirectional",
        lambda: OfLengths(nn.RNN(4, 5, 2, batch_first=True, bidirectional=True), 10),
        SEQUENCES,
    ),
    Family("rnn-tanh", saturated_rnn, SEQUENCES),
    Family(
        "rnn-relu-sequence-first",
        lambda: Last(nn.RNN(4, 6, nonlinearity="relu"), 6, first=False),
        SEQUENCES,
        samples_at_1=("recurrent",),
    ),
    Family("lstm-cell", lambda: Cells(lambda: nn.LSTMCell(4, 5), True), SEQUENCES),
    Family("gru-cell", lambda: Cells(lambda: nn.GRUCell(4, 5), False), SEQUENCES),
    Family("rnn-cell", lambda: Cells(lambda: nn.RNNCell(4, 5), False), SEQUENCES),
    Family("lstm-by-hand", Handwritten, SEQUENCES, shows=("x2h@6", "::sigmoid@20")),
    Family("language-model", Language, tokens(7)),
)
