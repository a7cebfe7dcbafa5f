"""The models and batches that are profiled on one process and on several.

No model draws random numbers in its forward pass: the generators of two ranks give different ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SAMPLES = 96
"""In the batch over all ranks: more than the 64 whose correlation is taken, a multiple of 8."""

Batch = tuple[Tensor, Tensor]


class Mlp(nn.Module):
    """Activations as modules and as functions, the latter also directly in the root."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 32)
        self.relu = nn.ReLU()
        self.hidden = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.hidden(self.relu(self.first(x)))))
        return out


class Cnn(nn.Module):
    """Channels in dimension 1, a normalisation that does not mix samples, a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Sigmoid()
        )
        self.head = nn.Linear(12 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(nn.functional.relu6(self.features(x)).flatten(1))
        return out


class Block(nn.Module):
    """A residual branch that tensor parallelism splits by columns, then by rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.relu = nn.ReLU()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(self.relu(self.up(self.norm(x))))
        return out


class Attention(nn.Module):
    """Self-attention with its scores in the open; heads are split among ranks."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = head
        self.norm = nn.LayerNorm(width)
        # Without biases: the gradient of the keys' bias is zero up to rounding, and two roundings
        # have nothing in common.
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x, skip = self.norm(x), x
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) * self.head**-0.5).softmax(dim=-1)
        out: Tensor = skip + self.out((weights @ v).transpose(1, 2).flatten(2))
        return out


class Blocks(nn.Module):
    """Residual blocks between an entry and a head; with ``checkpointed`` they run twice."""

    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.entry = nn.Linear(12, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.entry(x))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        out: Tensor = self.head(x)
        return out


class Collapsed(Mlp):
    """Samples hardly differ behind the first layer, and not at all behind the next."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.first.weight.mul_(1e-7)
            self.hidden[0].weight.zero_()


class Blemished(Blocks):
    """As it is; a number among its inputs is NaN."""


class Twins(Blocks):
    """Two units of the first block start alike, and what follows treats them alike."""

    def __init__(self) -> None:
        super().__init__()
        block = self.blocks[0]
        with torch.no_grad():
            block.up.weight[9], block.up.bias[9] = block.up.weight[2], block.up.bias[2]
            block.down.weight[:, 9] = block.down.weight[:, 2]


class Recurrent(nn.Module):
    """An LSTM, read at the last step, and a GRU that goes through its outputs from both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 10, batch_first=True)
        self.gru = nn.GRU(10, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(22, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0]
        out: Tensor = self.head(torch.cat([x[:, -1], self.gru(x)[0].mean(dim=1)], dim=1))
        return out


class Transformer(nn.Module):
    """One attention and one MLP block over a short sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(16, 4)
        self.block = Block(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(self.attention(x)).mean(dim=1))
        return out


class Mixture(nn.Module):
    """Experts that are called only where samples are sent to them; the last one never is."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(12, 16)
        self.gate = nn.Linear(16, 5)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(5)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        # Where a sample goes stands in its first feature, so the data decide who reaches what.
        chosen = x[:, 0].long()
        x = torch.tanh(self.entry(x))
        gates = self.gate(x).softmax(dim=1)
        out = x
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero().flatten()
            if len(rows):
                given = expert(x[rows]) * gates[rows, number, None]
                out = out.index_add(0, rows, given)
        result: Tensor = self.head(out)
        return result


INPUTS: dict[type[nn.Module], tuple[int, ...]] = {
    Mlp: (12,),
    Cnn: (3, 8, 8),
    Blocks: (12,),
    Collapsed: (12,),
    Blemished: (12,),
    Twins: (12,),
    Recurrent: (8, 16),
    Transformer: (8, 16),
    Mixture: (12,),
}


def built(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """The same weights on every rank, drawn in float32."""
    torch.manual_seed(1)
    return build().to(dtype)


def batches(kind: type[nn.Module], count: int, dtype: torch.dtype) -> list[Batch]:
    """Batches over all ranks."""
    generator = torch.Generator().manual_seed(2)
    drawn = []
    for number in range(count):
        x = torch.randn(SAMPLES, *INPUTS[kind], generator=generator).to(dtype)
        if kind is Mixture:
            # Each quarter of the samples reaches one expert, another one in each batch, so with
            # two or four ranks no rank reaches all of them and each learns of them at other times.
            quarters = torch.arange(SAMPLES) // (SAMPLES // 4)
            x[:, 0] = ((quarters + number) % 4).to(dtype)
        if kind is Blemished and number == 1:
            x[7, 2] = torch.nan
        drawn.append((x, torch.randint(5, (SAMPLES,), generator=generator)))
    return drawn


def share(whole: list[Batch], rank: int, ranks: int) -> list[Batch]:
    """What one of several ranks gets of the batches: its samples in a row."""
    samples = SAMPLES // ranks
    own = slice(rank * samples, (rank + 1) * samples)
    return [(x[own], y[own]) for x, y in whole]


def loss(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy, averaged over the samples at hand."""
    return nn.functional.cross_entropy(output, batch[1])
