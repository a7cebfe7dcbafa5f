"""Graphs that are cut: parts of the network that no gradient reaches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.datasets import chains, images, sentences, table
from tests.zoo.subjects.networks import (
    PIXELS,
    Apply,
    Block,
    CausalModel,
    SelfAttention,
    convolutional,
    dense,
)
from tests.zoo.subjects.optimizers import adam, sgd
from tests.zoo.subjects.pairs import Setup, pair
from tests.zoo.subjects.tasks import predict_tokens, reconstruct, regress

SMALL = partial(images, 14)
NUMBERS = partial(table, "number")


def unchanged(x: Tensor) -> Tensor:
    return x


class Two(nn.Module):
    """Two branches over the same picture, of which one can be cut off or overwritten."""

    def __init__(self, cut: Callable[[Tensor], Tensor] = unchanged, *, both: bool = True) -> None:
        super().__init__()
        self.edges = convolutional([12, 0, 12], outputs=32)
        self.whole = dense(196, [64], 32)
        self.head = nn.Linear(64 if both else 32, 10)
        self.cut, self.both = cut, both

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.cut(self.edges(x))
        whole = self.whole(x)
        hidden = torch.cat([hidden, whole], dim=1) if self.both else whole
        return self.head(torch.relu(hidden))  # type: ignore[no-any-return]


class NoGrad(nn.Module):
    """A trunk under ``no_grad``, left over from when it was used for features alone."""

    def __init__(self, *, grad: bool) -> None:
        super().__init__()
        self.trunk = convolutional([16, 0, 16, 16], norm=True, outputs=32)
        self.head = nn.Linear(32, 10)
        self.grad = grad

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.grad):
            features = self.trunk(x)
        return self.head(torch.relu(features))  # type: ignore[no-any-return]


class Tasks(nn.Module):
    """Three heads, one for each number to predict; returns what all of them say."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        return torch.cat([head(x) for head in self.heads], dim=1)


def first_two_tasks(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of two of the five heads: a loop over the wrong list."""
    return functional.binary_cross_entropy_with_logits(model(batch[0])[:, :2], batch[1][:, :2])


def all_tasks(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


class Codebook(nn.Module):
    """An autoencoder with a codebook, with and without the straight-through gradient."""

    def __init__(self, *, straight_through: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(dense(PIXELS, [96], 8), nn.BatchNorm1d(8))
        self.codes = nn.Embedding(32, 8)
        self.decoder = dense(8, [96], PIXELS)
        self.straight_through = straight_through

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        chosen = self.codes(torch.cdist(code, self.codes.weight).argmin(dim=1))
        if self.straight_through:
            chosen = chosen + code - code.detach()
        return self.decoder(chosen)  # type: ignore[no-any-return]


class Sampled(nn.Module):
    """A variational autoencoder that samples by ``normal`` or by the reparametrisation."""

    def __init__(self, *, reparametrised: bool) -> None:
        super().__init__()
        self.encoder = dense(196, [64], 32)
        self.decoder = dense(16, [64], 196)
        self.reparametrised = reparametrised

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        spread = (0.5 * log_variance).exp()
        if self.reparametrised:
            code = mean + spread * torch.randn_like(mean)
        else:
            code = torch.distributions.Normal(mean, spread).sample()
        return self.decoder(code), mean, log_variance


def warm_up(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The first epochs of a variational autoencoder: the divergence counts nothing yet."""
    made, mean, log_variance = model(batch[0])
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1)
    return functional.mse_loss(made, batch[0].flatten(1)) + 0.0 * divergence.mean()


class Generator(nn.Module):
    """A generator and its judge."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 196), nn.Sigmoid()
        )
        self.judge = nn.Sequential(
            nn.Flatten(), nn.Linear(196, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )


def play(model: nn.Module, batch: tuple[Tensor, Tensor], *, detached: bool) -> Tensor:
    """The losses of both sides; in the generator's, the made pictures may be detached."""
    assert isinstance(model, Generator)
    real = batch[0].flatten(1)
    made = model.generator(torch.randn(len(real), 16))
    judged = model.judge(torch.cat([real, made.detach()]))
    truth = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
    frozen = {name: weight.detach() for name, weight in model.judge.named_parameters()}
    shown = made.detach() if detached else made
    fooled = torch.func.functional_call(model.judge, frozen, (shown,))
    logits = functional.binary_cross_entropy_with_logits
    return logits(judged, truth) + logits(fooled, torch.ones(len(real), 1))


class Pooled(nn.Module):
    """Tokens pooled by attention; the softmax may go over the wrong axis, which has one entry."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 32)
        self.position = nn.Parameter(0.02 * torch.randn(1, 24, 32))
        self.mix = nn.Sequential(nn.Linear(32, 32), nn.Tanh())
        self.score = nn.Linear(32, 1)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        hidden = hidden + torch.tanh(hidden.roll(1, dims=1)) * hidden + self.position
        weights = torch.softmax(self.score(self.mix(hidden)), dim=self.dim)
        return self.head((weights * hidden).sum(dim=1) / (24 if self.dim == 2 else 1))


class Gate(nn.Module):
    """x + gate · f(x); a gate that is no parameter stays at zero."""

    def __init__(self, width: int, *, parameter: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        zero = torch.zeros(1)
        if parameter:
            self.gate = nn.Parameter(zero)
        else:
            self.register_buffer("gate", zero)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * torch.relu(self.layer(x))


def gated(*, parameter: bool) -> nn.Module:
    layers = [Gate(64, parameter=parameter) for _ in range(5)]
    return nn.Sequential(nn.Linear(12, 64), *layers, nn.Linear(64, 1))


def by_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().clip(0))


def halfway(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A perceptron with some function in its middle."""
    return nn.Sequential(
        *dense(PIXELS, [96, 96], 96), Apply(function), nn.Linear(96, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


class Straight(torch.autograd.Function):
    """Rounds; the gradient passes as if it had not."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def rounded(x: Tensor) -> Tensor:
    return torch.round(4 * x) / 4


def rounded_straight(x: Tensor) -> Tensor:
    return Straight.apply(4 * x) / 4  # type: ignore[no-any-return,no-untyped-call]


class TwoStages(nn.Module):
    """A language model on the tokens that another one finds most likely."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.draft = CausalModel([Block(SelfAttention(32, 2, causal=True), 32)], 32)
        self.embed = nn.Embedding(28, 32)
        self.blocks = nn.Sequential(Block(SelfAttention(32, 2, causal=True), 32))
        self.head = nn.Linear(32, 28)
        self.hard = hard

    def forward(self, x: Tensor) -> Tensor:
        likely = torch.softmax(self.draft(x), dim=2)
        weight = self.embed.weight
        hidden = self.embed(likely.argmax(dim=2)) if self.hard else likely @ weight
        return self.head(self.blocks(hidden))  # type: ignore[no-any-return]


def rewrapped(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss made into a tensor of its own, to be printed and "differentiated"."""
    loss = functional.mse_loss(model(batch[0]), batch[1])
    return torch.tensor(loss.item(), requires_grad=True)


def regression() -> nn.Module:
    return dense(12, [64] * 3, 1)


PAIRS = (
    pair(
        "branch-detached",
        "two-branches",
        "the output of one branch is detached",
        "GS103",
        Setup(lambda: Two(torch.detach), adam(), data=SMALL),
        Setup(Two, adam(), data=SMALL),
    ),
    pair(
        "branch-overwritten",
        "two-branches",
        "the output of one branch is overwritten by that of the other",
        "GS103",
        Setup(lambda: Two(both=False), adam(), data=SMALL),
        Setup(Two, adam(), data=SMALL),
    ),
    pair(
        "trunk-under-no-grad",
        "convolutional-trunk",
        "the trunk runs under no_grad",
        "GS103",
        Setup(lambda: NoGrad(grad=False), sgd(), data=SMALL),
        Setup(lambda: NoGrad(grad=True), sgd(), data=SMALL),
        may="GS301",
    ),
    pair(
        "heads-not-in-the-loss",
        "multi-task",
        "three of five heads are not in the loss",
        "GS103",
        Setup(Tasks, adam(), first_two_tasks, partial(table, "labels")),
        Setup(Tasks, adam(), all_tasks, partial(table, "labels")),
    ),
    pair(
        "codebook-without-straight-through",
        "autoencoder-codebook",
        "the nearest code is looked up, and nothing passes its gradient to the encoder",
        "GS103",
        Setup(lambda: Codebook(straight_through=False), adam(), reconstruct),
        Setup(lambda: Codebook(straight_through=True), adam(), reconstruct),
    ),
    pair(
        "sample-without-reparametrisation",
        "variational-autoencoder",
        "sample() instead of rsample()",
        "GS103",
        Setup(lambda: Sampled(reparametrised=False), adam(), warm_up, SMALL),
        Setup(lambda: Sampled(reparametrised=True), adam(), warm_up, SMALL),
        may="GS101",
    ),
    pair(
        "generator-detached",
        "gan",
        "made pictures are detached in the generator's loss too",
        "GS103",
        Setup(Generator, adam(), partial(play, detached=True), SMALL),
        Setup(Generator, adam(), partial(play, detached=False), SMALL),
    ),
    pair(
        "softmax-over-one",
        "attention-pooling",
        "the weights of tokens are normalised over an axis of one entry, and are all one",
        "GS103",
        Setup(lambda: Pooled(2), adam(3e-3), data=chains),
        Setup(lambda: Pooled(1), adam(3e-3), data=chains),
    ),
    pair(
        "gate-no-parameter",
        "regression-gated",
        "gates that start at zero and are buffers",
        "GS103",
        Setup(lambda: gated(parameter=False), adam(), regress, NUMBERS),
        Setup(lambda: gated(parameter=True), adam(), regress, NUMBERS),
        may="GS301",
    ),
    pair(
        "by-way-of-numpy",
        "mlp-halfway",
        "a step in numpy in the middle of the network",
        "GS103",
        Setup(lambda: halfway(by_numpy), sgd()),
        Setup(lambda: halfway(torch.relu), sgd()),
        may="GS301",
    ),
    pair(
        "rounded-halfway",
        "mlp-halfway",
        "activations rounded in the middle of the network, without straight-through gradient",
        "GS103",
        Setup(lambda: halfway(rounded), adam()),
        Setup(lambda: halfway(rounded_straight), adam()),
        may="GS101 GS301",
    ),
    pair(
        "most-likely-token",
        "language-model-two-stages",
        "argmax between two models",
        "GS103",
        Setup(lambda: TwoStages(hard=True), adam(), predict_tokens, sentences),
        Setup(lambda: TwoStages(hard=False), adam(), predict_tokens, sentences),
        may="GS301",
    ),
    pair(
        "loss-rewrapped",
        "regression-dense",
        "the loss is made into a new tensor",
        "GS103",
        Setup(regression, sgd(0.02), rewrapped, NUMBERS),
        Setup(regression, sgd(0.02), regress, NUMBERS),
        may="GS301",
    ),
)

CASES = [entry.case for entry in PAIRS]
