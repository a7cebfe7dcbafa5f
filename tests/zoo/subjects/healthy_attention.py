"""Healthy transformers, and networks that mix tokens otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import addition, chains, images, reversal, sentences
from tests.zoo.subjects.networks import Block, CausalModel, Encoder, SelfAttention
from tests.zoo.subjects.optimizers import adam, adamw, clipped, warmed_up
from tests.zoo.subjects.tasks import fresh_and_trained, predict_tokens

ROWS = partial(images, 14, 32)
TEXT = partial(sentences, 24)


def rows_encoder(*, norm_first: bool) -> nn.Module:
    """torch's own layers over a picture's rows."""
    layer = partial(nn.TransformerEncoderLayer, 48, 4, 96, batch_first=True)
    return Encoder([layer(norm_first=norm_first) for _ in range(3)], 48, features=14)


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021: patches, and a token of its own that is classified."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(Block(SelfAttention(width, 4), width) for _ in range(3)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1)
        return self.head(self.norm(self.blocks(tokens + self.position))[:, 0])  # type: ignore[no-any-return]


def gpt() -> nn.Module:
    """Radford et al. 2019: small weights, the output layer tied to the embedding."""
    width, depth = 48, 3
    model = CausalModel(
        [Block(SelfAttention(width, 4, causal=True), width) for _ in range(depth)], width
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            last = name.endswith(("out.weight", "feed.2.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if last else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    model.head.weight = model.embed.weight
    return model


class RotaryAttention(nn.Module):
    """Queries and keys are turned by an angle that grows with the position (Su et al. 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.inputs(x).chunk(3, dim=2)
        )
        seen = functional.scaled_dot_product_attention(
            self.turned(q), self.turned(k), v, is_causal=True
        )
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @staticmethod
    def turned(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        pitch = 100.0 ** (-torch.arange(half) / half)
        angle = torch.arange(x.shape[-2])[:, None] * pitch
        one, other = x.chunk(2, dim=-1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([one * cos - other * sin, one * sin + other * cos], dim=-1)


class GatedFeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Branches(nn.Module):
    """Modules in residual branches, one after the other, each behind a norm."""

    def __init__(self, width: int, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in branches)

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = x + branch(norm(x))
        return x


class RotaryModel(nn.Module):
    """A language model without biases and positions (Touvron et al. 2023)."""

    def __init__(self, feed: Callable[[int], nn.Module], tokens: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(
            *(Branches(width, RotaryAttention(width, 4), feed(width)) for _ in range(2))
        )
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))))  # type: ignore[no-any-return]


class MixtureOfExperts(nn.Module):
    """Each token goes to the best two of four (Shazeer et al. 2017)."""

    def __init__(self, width: int, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).topk(2, dim=-1)
        shares = torch.softmax(best, dim=-1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            share = (shares * (chosen == number)).sum(dim=-1)
            routed = share > 0
            mixed[routed] = mixed[routed] + share[routed].unsqueeze(1) * expert(x[routed])
        return mixed


class Translator(nn.Module):
    """torch's encoder and decoder (Vaswani et al. 2017), on tokens with learned positions."""

    def __init__(self, tokens: int = 10, width: int = 48) -> None:
        super().__init__()
        self.start = tokens
        self.embed = nn.Embedding(tokens + 1, width)
        self.position = nn.Embedding(8, width)
        self.transformer = nn.Transformer(width, 4, 1, 1, 96, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        shifted = functional.pad(target[:, :-1], (1, 0), value=self.start)
        later = nn.Transformer.generate_square_subsequent_mask(shifted.shape[1])
        placed = self.position(torch.arange(source.shape[1]))
        hidden = self.transformer(
            self.embed(source) + placed, self.embed(shifted) + placed, tgt_mask=later
        )
        return self.head(hidden)  # type: ignore[no-any-return]


def translate(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits = model(*batch)
    return functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten())


class Perceiver(nn.Module):
    """A few learned queries look at all rows of a picture (Jaegle et al. 2021)."""

    def __init__(self, width: int = 48, queries: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(14, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, 14, width))
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.look = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.think = Block(SelfAttention(width, 4), width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x.squeeze(1)) + self.position
        queries = self.queries.expand(len(x), -1, -1)
        seen, _ = self.look(queries, rows, rows)
        return self.head(self.think(self.norm(queries + seen)).mean(dim=1))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: perceptrons over the patches and over the channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 4, 4)
        self.tokens = nn.ModuleList(self.block(49) for _ in range(3))
        self.channels = nn.ModuleList(self.block(32) for _ in range(3))
        self.head = nn.Linear(32, 10)

    @staticmethod
    def block(features: int) -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(features), nn.Linear(features, 64), nn.GELU(), nn.Linear(64, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        for tokens, channels in zip(self.tokens, self.channels, strict=True):
            x = x + tokens(x)
            x = x + channels(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.mean(dim=2))  # type: ignore[no-any-return]


CASES = (
    *fresh_and_trained(
        "transformer-pre-norm", lambda: rows_encoder(norm_first=True), adam(2e-3), data=ROWS
    ),
    *fresh_and_trained(
        "transformer-post-norm", lambda: rows_encoder(norm_first=False), adam(), data=ROWS
    ),
    *fresh_and_trained(
        "vision-transformer", VisionTransformer, adamw(2e-3, 0.05), data=partial(images, 28, 32)
    ),
    *fresh_and_trained(
        "gpt",
        gpt,
        clipped(warmed_up(adamw(5e-3, 0.1, betas=(0.9, 0.95)))),
        step=predict_tokens,
        data=TEXT,
    ),
    *fresh_and_trained(
        "rotary-swiglu",
        lambda: RotaryModel(GatedFeedForward, 12),
        clipped(adamw(3e-3, 0.1)),
        step=predict_tokens,
        data=addition,
    ),
    *fresh_and_trained(
        "mixture-of-experts",
        lambda: RotaryModel(MixtureOfExperts, 28),
        clipped(adam(3e-3)),
        step=predict_tokens,
        data=TEXT,
        trained=150,
    ),
    *fresh_and_trained(
        "transformer-translator",
        Translator,
        clipped(adam(3e-3)),
        step=translate,
        data=reversal,
        trained=300,
    ),
    *fresh_and_trained(
        "transformer-tokens",
        lambda: Encoder(
            [Block(SelfAttention(32, 2), 32, nn.ReLU) for _ in range(2)], 32, tokens=16, outputs=4
        ),
        adam(2e-3),
        data=chains,
    ),
    *fresh_and_trained("perceiver", Perceiver, adam(2e-3), data=ROWS),
    *fresh_and_trained("mixer", Mixer, adam(2e-3), data=partial(images, 28, 32), trained=150),
)
