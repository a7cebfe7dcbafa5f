"""Models of many kinds, that ``gradscope init`` is pointed at."""

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x):
        return self.net(x)


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(90, 16), nn.Linear(16, 90)

    def forward(self, tokens):
        return self.head(self.table(tokens).tanh())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.cells(x)[0][-1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids, attention_mask):
        hidden = self.layer(self.table(input_ids), src_key_padding_mask=attention_mask == 0)
        return {"hidden": hidden, "logits": self.head(hidden[:, 0])}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.head = nn.Linear(6, 8), nn.Linear(16, 4)

    def forward(self, x1, x2):
        return self.head(torch.cat([self.left(x1), self.left(x2)], 1).relu())


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, nodes, edges):
        return self.layer(nodes)


class Sized(nn.Linear):
    def __init__(self, width, depth):
        super().__init__(width, depth)


def broken():
    raise ValueError("no weights here")


def text():
    return "a model"


built = Mlp()
number = 3
