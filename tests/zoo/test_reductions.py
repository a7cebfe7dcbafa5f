"""Whether a loss is a mean or a sum over samples, against what doubling the batch does to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope

Batch = tuple[Tensor, Tensor]
Reduced = Callable[[Tensor, Batch, str], Tensor]
Loss = Callable[[Tensor, Batch], Tensor]


def target(output: Tensor) -> Tensor:
    return torch.full_like(output, 0.3)


LOSSES: dict[str, Reduced] = {
    "cross_entropy": lambda o, b, how: functional.cross_entropy(o, b[1], reduction=how),
    "label_smoothing": lambda o, b, how: functional.cross_entropy(
        o, b[1], reduction=how, label_smoothing=0.1
    ),
    "soft_targets": lambda o, b, how: functional.cross_entropy(
        o, target(o).softmax(1), reduction=how
    ),
    "nll": lambda o, b, how: functional.nll_loss(o.log_softmax(1), b[1], reduction=how),
    "mse": lambda o, b, how: functional.mse_loss(o, target(o), reduction=how),
    "l1": lambda o, b, how: functional.l1_loss(o, target(o), reduction=how),
    "smooth_l1": lambda o, b, how: functional.smooth_l1_loss(o, target(o), reduction=how),
    "huber": lambda o, b, how: functional.huber_loss(o, target(o), reduction=how),
    "bce": lambda o, b, how: functional.binary_cross_entropy(o.sigmoid(), target(o), reduction=how),
    "bce_logits": lambda o, b, how: functional.binary_cross_entropy_with_logits(
        o, target(o), reduction=how
    ),
    "poisson": lambda o, b, how: functional.poisson_nll_loss(o, target(o), reduction=how),
    "margin": lambda o, b, how: functional.multi_margin_loss(o, b[1], reduction=how),
    "soft_margin": lambda o, b, how: functional.soft_margin_loss(o, target(o), reduction=how),
    "square": lambda o, b, how: getattr(o.square(), how)(),
    "triplet": lambda o, b, how: functional.triplet_margin_loss(o, o + 1, o * 2, reduction=how),
}

ENDINGS: dict[str, Callable[[Reduced], Loss]] = {
    "mean": lambda f: lambda o, b: f(o, b, "mean"),
    "sum": lambda f: lambda o, b: f(o, b, "sum"),
    "sum / n": lambda f: lambda o, b: f(o, b, "sum") / len(o),
    "sum.div(n)": lambda f: lambda o, b: f(o, b, "sum").div(len(o)),
    "sum / tensor(n)": lambda f: lambda o, b: f(o, b, "sum") / torch.tensor(float(len(o))),
    "sum * (1 / n)": lambda f: lambda o, b: f(o, b, "sum") * (1 / len(o)),
    "mean / 4": lambda f: lambda o, b: f(o, b, "mean") / 4,
    "sum * 0.5": lambda f: lambda o, b: f(o, b, "sum") * 0.5,
}


def half(output: Tensor) -> Tensor:
    return (torch.arange(len(output)) % 2).float()


def each(output: Tensor, batch: Batch) -> Tensor:
    return functional.cross_entropy(output, batch[1], reduction="none")


OTHERS: dict[str, Loss] = {
    "of single losses, mean": lambda o, b: each(o, b).mean(),
    "of single losses, sum": lambda o, b: each(o, b).sum(),
    "masked mean": lambda o, b: (each(o, b) * half(o)).sum() / half(o).sum().clamp(min=1),
    "of some": lambda o, b: each(o, b)[half(o) > 0].mean(),
    "sum over features, mean over samples": lambda o, b: o.square().sum(dim=1).mean(),
    "mean over features, sum over samples": lambda o, b: o.square().mean(dim=1).sum(),
    "mean over samples, sum over features": lambda o, b: o.square().mean(dim=0).sum(),
    "sum over samples, mean over features": lambda o, b: o.square().sum(dim=0).mean(),
    "sum in Python": lambda o, b: sum((row.square().sum() for row in o), torch.zeros(())),
    "stacked": lambda o, b: torch.stack([row.square().sum() for row in o]).mean(),
    "two sums": lambda o, b: functional.mse_loss(o, target(o), reduction="sum") + o.exp().sum(),
    "two means": lambda o, b: functional.mse_loss(o, target(o)) + o.exp().sum() / len(o),
    "chosen, mean": lambda o, b: -o.log_softmax(1)[torch.arange(len(o)), b[1]].mean(),
    "chosen, sum": lambda o, b: -o.log_softmax(1)[torch.arange(len(o)), b[1]].sum(),
    "batchmean": lambda o, b: functional.kl_div(
        o.log_softmax(1), target(o).softmax(1), reduction="batchmean"
    ),
    "of shape (1,)": lambda o, b: o.square().mean().view(1),
}


def batch(samples: int) -> Batch:
    source = torch.Generator().manual_seed(samples)
    return (
        torch.randn(samples, 4, generator=source),
        torch.randint(3, (samples,), generator=source),
    )


def reduction_of(loss: Loss) -> str:
    """From the definition: a mean is the same over a batch and itself, a sum is twice as much."""
    output = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(8) % 3
    once = float(loss(output, (output, classes)))
    twice = float(loss(output.repeat(2, 1), (output.repeat(2, 1), classes.repeat(2))))
    ratio = twice / once
    assert ratio == pytest.approx(1) or ratio == pytest.approx(2)
    return "mean" if ratio < 1.5 else "sum"


def found(loss: Loss) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return gradscope.profile(model, [batch(8)], loss, steps=1).reduction


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", LOSSES)
def test_how_a_loss_ends(name: str, ending: str) -> None:
    loss = ENDINGS[ending](LOSSES[name])
    assert found(loss) == reduction_of(loss)


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses(name: str) -> None:
    assert found(OTHERS[name]) == reduction_of(OTHERS[name])
