"""What the zoo's subjects learn from: pictures, token sequences and tables, the same each time.

Token sequences come from small languages of our own, so that nothing has to be downloaded and
what can be learned of them is known.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from gradscope.examples.fashion_mnist import SAMPLE, Batches, load_fashion_mnist

__all__ = [
    "LETTERS",
    "addition",
    "chains",
    "images",
    "moons",
    "reversal",
    "sentences",
    "sets",
    "table",
    "waves",
]

LETTERS = " .abcdefghijklmnopqrstuvwxyz"
"""The characters of :func:`sentences`; their numbers are the tokens."""

DIGITS = 12
"""Tokens of :func:`addition`: ten digits, plus and equals."""


@cache
def images(side: int = 28, batch_size: int = 64, samples: int = 6000) -> Batches:
    """Fashion-MNIST, (batch, 1, side, side) in [0, 1], averaged down from 28 pixels."""
    data = load_fashion_mnist(SAMPLE)
    pictures = data.train_images[:samples]
    if side != 28:
        pictures = functional.adaptive_avg_pool2d(pictures, side)
    return Batches(pictures, data.train_labels[:samples], batch_size)


@cache
def chains(length: int = 24, batch_size: int = 64, kinds: int = 4, tokens: int = 16) -> Batches:
    """Walks through Markov chains, (batch, length), and which of the chains each walks through.

    From every token three others can follow, with odds of 6 to 3 to 1.
    """
    source = torch.Generator().manual_seed(5)
    odds = torch.zeros(kinds, tokens, tokens)
    for chain in odds:
        for row in chain:
            row[torch.randperm(tokens, generator=source)[:3]] = torch.tensor([0.6, 0.3, 0.1])
    kind = torch.randint(kinds, (4096,), generator=source)
    walk = [torch.randint(tokens, (4096,), generator=source)]
    while len(walk) < length:
        walk.append(torch.multinomial(odds[kind, walk[-1]], 1, generator=source).squeeze(1))
    return Batches(torch.stack(walk, dim=1), kind, batch_size)


@cache
def sentences(length: int = 32, batch_size: int = 32) -> Batches:
    """Pieces of a text in a small grammar, (batch, length), each with the piece one further."""
    source = torch.Generator().manual_seed(6)

    def draw(words: str) -> str:
        choices = words.split()
        return choices[int(torch.randint(len(choices), (), generator=source))]

    def noun() -> str:
        return f"{draw('the a every')} {draw('small old red happy')} {draw('cat dog bird fox')}"

    text = ""
    while len(text) < 40_000:
        text += f"{noun()} {draw('sees likes follows')} {noun()}"
        text += f" {draw('and but')} {draw('sleeps runs')}. " if draw("0 1") == "1" else ". "
    numbers = torch.tensor([LETTERS.index(letter) for letter in text])
    starts = torch.randint(len(numbers) - length - 1, (4096,), generator=source)
    pieces = torch.stack([numbers[start : start + length + 1] for start in starts.tolist()])
    return Batches(pieces[:, :-1], pieces[:, 1:], batch_size)


@cache
def reversal(length: int = 8, batch_size: int = 64, tokens: int = 10) -> Batches:
    """Sequences (batch, length) of tokens, and the same backwards."""
    source = torch.Generator().manual_seed(7)
    numbers = torch.randint(tokens, (4096, length), generator=source)
    return Batches(numbers, numbers.flip(1), batch_size)


@cache
def addition(batch_size: int = 64) -> Batches:
    """``37+25=062`` as nine tokens less the last, and the next token of each."""
    source = torch.Generator().manual_seed(8)
    one, other = torch.randint(100, (2, 4096), generator=source)

    def digits(numbers: Tensor, places: int) -> list[Tensor]:
        return [numbers // 10**place % 10 for place in reversed(range(places))]

    plus, equals = torch.full_like(one, 10), torch.full_like(one, 11)
    columns = [*digits(one, 2), plus, *digits(other, 2), equals, *digits(one + other, 3)]
    text = torch.stack(columns, dim=1)
    return Batches(text[:, :-1], text[:, 1:], batch_size)


@cache
def table(targets: str = "number", features: int = 12, batch_size: int = 64) -> Batches:
    """Standardised features (batch, features), and what depends on them in a curved way.

    Args:
        targets: ``number``, (batch, 1) of variance 1; ``class``, one of four; ``labels``,
            (batch, 5) zeros and ones.
        features: columns of the table.
        batch_size: rows in a batch.
    """
    source = torch.Generator().manual_seed(9)
    rows = torch.randn(4096, features, generator=source)
    hidden = torch.tanh(rows @ torch.randn(features, 8, generator=source) / features**0.5 * 2)
    score = hidden @ torch.randn(8, 5, generator=source)
    score = (score - score.mean(dim=0)) / score.std(dim=0)
    score = score + 0.1 * torch.randn(score.shape, generator=source)
    of_kind = {"number": score[:, :1], "class": score[:, :4].argmax(dim=1)}
    return Batches(rows, of_kind.get(targets, (score > 0.5).float()), batch_size)


@cache
def waves(length: int = 24, batch_size: int = 64) -> Batches:
    """Two sines of random pitch and phase, (batch, length, 1), and how they go on, (batch, 1)."""
    source = torch.Generator().manual_seed(10)
    pitch, phase = torch.rand(2, 4096, 2, 1, generator=source)
    time = torch.arange(length + 1)
    wave = torch.sin((0.2 + 0.6 * pitch) * time + 6.28 * phase).sum(dim=1)
    return Batches(wave[:, :-1, None], wave[:, -1:], batch_size)


@cache
def moons(batch_size: int = 128) -> Batches:
    """Points (batch, 2) on two noisy half circles, and on which."""
    source = torch.Generator().manual_seed(11)
    which = torch.randint(2, (4096,), generator=source)
    angle = 3.1416 * torch.rand(4096, generator=source)
    sign = 1 - 2 * which
    circle = torch.stack([angle.cos() * sign + which - 0.5, angle.sin() * sign + which / 2], dim=1)
    points = circle + 0.08 * torch.randn(4096, 2, generator=source)
    return Batches(points - points.mean(dim=0), which, batch_size)


@cache
def sets(batch_size: int = 64) -> Batches:
    """Sets of ten points (batch, 10, 2), and their spread around their middle, (batch, 1)."""
    source = torch.Generator().manual_seed(12)
    width = 0.2 + torch.rand(4096, 1, 1, generator=source)
    points = width * torch.randn(4096, 10, 2, generator=source)
    return Batches(points, points.std(dim=1).mean(dim=1, keepdim=True), batch_size)
