"""Families with attention: fused, of torch's modules, and written by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.families.entry import (
    IMAGES,
    Family,
    adam,
    next_token,
    pairs,
    tokens,
)


class Encoder(nn.Module):
    """torch's own encoder over a projected sequence."""

    def __init__(self, first: bool = True, **options: Any) -> None:
        super().__init__()
        self.stem, self.head, self.first = nn.Linear(4, 8), nn.Linear(8, 3), first
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=first, **options)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.layers(x) if self.first else self.layers(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x.mean(dim=1))


class Decoder(nn.Module):
    """Learnt queries look at a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.queries = nn.Parameter(torch.randn(5, 8))
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(len(x), -1, -1)
        return self.head(self.layer(queries, self.stem(x)).mean(dim=1))


class Weighted(nn.Module):
    """nn.MultiheadAttention that hands out its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, weights = self.attn(x, x, x, need_weights=True)
        return self.head((y + weights @ x).mean(dim=1))


class ByHand(nn.Module):
    """Heads, scores and softmax; causal through a mask of minus infinity or a large number."""

    def __init__(self, width: int, heads: int, mask: float | None, product: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.mask = heads, mask
        self.softmax = nn.Softmax(dim=-1) if product else None

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        parts = self.qkv(x).view(samples, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if self.mask is not None:
            closed = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(closed, self.mask)
        weights = functional.softmax(scores, -1) if self.softmax is None else self.softmax(scores)
        return self.out((weights @ v).transpose(1, 2).reshape(samples, length, width))


class HandBlock(nn.Module):
    def __init__(self, width: int, heads: int, mask: float | None, module: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = ByHand(width, heads, mask, module)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Handwritten(nn.Module):
    def __init__(self, mask: float | None, module: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(HandBlock(8, 2, mask, module) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=1))


class Fused(nn.Module):
    """GPT's causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        split = (samples, length, self.heads, width // self.heads)
        q, k, v = (part.view(split).transpose(1, 2) for part in self.qkv(x).split(width, dim=2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(samples, length, width))


class GPT(nn.Module):
    """Embeddings that also read the result out again."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln_1, self.attn = nn.LayerNorm(width), Fused(width, 2)
            self.ln_2, self.act = nn.LayerNorm(width), nn.GELU()
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(self.ln_1(x))
            return x + self.down(self.act(self.up(self.ln_2(x))))

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(13, 8), nn.Embedding(7, 8)
        self.drop = nn.Dropout(0.1)
        self.h = nn.ModuleList(self.Block(8) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(8), nn.Linear(8, 13, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.wte(x) + self.wpe(torch.arange(x.shape[1])))
        for block in self.h:
            h = block(h)
        return self.lm_head(self.ln_f(h))


class RMSNorm(nn.Module):
    """As Llama's authors wrote it, before torch had one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Llama(nn.Module):
    """RMSNorm, rotated positions, grouped queries, SwiGLU."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.input_norm, self.post_norm = RMSNorm(width), nn.RMSNorm(width)
            self.q, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
            self.k, self.v = (nn.Linear(width, width // 2, bias=False) for _ in range(2))
            self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
            self.down = nn.Linear(2 * width, width, bias=False)

        def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            samples, length, width = x.shape
            h = self.input_norm(x)
            q, k, v = (
                layer(h).view(samples, length, -1, 4).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
            q, k = (rotated(part, cos, sin) for part in (q, k))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + self.o(y.transpose(1, 2).reshape(samples, length, width))
            h = self.post_norm(x)
            return x + self.down(functional.silu(self.gate(h)) * self.up(h))

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        self.layers = nn.ModuleList(self.Block(8) for _ in range(2))
        self.norm, self.head = RMSNorm(8), nn.Linear(8, 13, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1]), torch.tensor([1.0, 0.1])).repeat(1, 2)
        h = self.embed(x)
        for layer in self.layers:
            h = layer(h, angles.cos(), angles.sin())
        return self.head(self.norm(h))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 5, 8) * 0.02)
        self.blocks = nn.Sequential(*(HandBlock(8, 2, None) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Swin(nn.Module):
    """Attention within windows, which stand where samples stood."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.norm1, self.norm2, self.attention = (
            nn.LayerNorm(8),
            nn.LayerNorm(8),
            ByHand(8, 2, None),
        )
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.merge, self.head = nn.Linear(32, 12, bias=False), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        samples = len(x)
        h = torch.roll(self.norm1(x), (-1, -1), (1, 2))
        h = h.view(samples, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 8)
        h = self.attention(h)
        h = h.view(samples, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(samples, 4, 4, 8)
        x = x + torch.roll(h, (1, 1), (1, 2))
        x = x + self.mlp(self.norm2(x))
        corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.merge(torch.cat(corners, dim=-1)).mean(dim=(1, 2)))


class Mixer(nn.Module):
    """Layers over tokens and over channels in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.tokens = nn.ModuleList(self.block(4) for _ in range(2))
        self.channels = nn.ModuleList(self.block(8) for _ in range(2))
        self.head = nn.Linear(8, 3)

    @staticmethod
    def block(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for i, (tokens_, channels) in enumerate(zip(self.tokens, self.channels, strict=True)):
            x = x + tokens_(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + channels(self.norms[2 * i + 1](x))
        return self.head(x.mean(dim=1))


SEQUENCES = pairs(6, 4, samples=12)
LONG = pairs(24, 4, samples=24)

FAMILIES = (
    Family("encoder-post-norm-relu", lambda: Encoder(dropout=0.0), SEQUENCES, shows=(
        "layers.layers.1::relu@0", "layers.layers.0.self_attn",
        "layers.layers.0.self_attn::scaled_dot_product_attention@0")),
    Family("encoder-pre-norm-gelu", lambda: Encoder(norm_first=True, activation="gelu"),
        SEQUENCES, shows=("layers.layers.1::gelu@0",), optimizer=adam),
    Family("encoder-sequence-first", lambda: Encoder(False, activation=torch.tanh, dropout=0.0),
        SEQUENCES, samples_at_1=("layers.*norm?", "layers.*linear?", "layers.*tanh@0",
            "layers.*self_attn")),
    Family("decoder", Decoder, SEQUENCES,
        shows=("layer.multihead_attn::scaled_dot_product_attention@0",)),
    Family("attention-weights", Weighted, SEQUENCES, shows=("attn::softmax@0", "attn")),
    Family("attention-by-hand", lambda: Handwritten(None), SEQUENCES,
        shows=("blocks.0.attention::softmax@0",)),
    Family("attention-causal", lambda: Handwritten(-math.inf), SEQUENCES),
    Family("attention-closed-by-a-number", lambda: Handwritten(torch.finfo(torch.float32).min,
        True), SEQUENCES, shows=("blocks.1.attention.softmax",)),
    Family("attention-long", lambda: Handwritten(-math.inf), LONG),
    Family("gpt", GPT, tokens(7), next_token, optimizer=adam,
        shows=("h.1.attn::scaled_dot_product_attention@0",)),
    Family("gpt-scores", GPT, tokens(7), next_token, attention=True),
    Family("llama", Llama, tokens(7), next_token, attention=True),
    Family("vit", ViT, IMAGES, units_at_1=("patches",)),
    Family("swin", Swin, IMAGES, units_at_1=("patches",)),
    Family("mixer", Mixer, IMAGES, units_at_1=("patches",)),
)  # fmt: skip
