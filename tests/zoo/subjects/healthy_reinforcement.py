"""Healthy networks that learn to act, in worlds of a few states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.subjects.networks import dense
from tests.zoo.subjects.optimizers import adam, clipped
from tests.zoo.subjects.tasks import fresh_and_trained

SIDE, DISCOUNT = 5, 0.9
MOVES = torch.tensor([(0, 1), (0, -1), (1, 0), (-1, 0)])


def moved(places: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Where a move leads on a square board, and the reward: one for reaching the far corner."""
    after = (places + MOVES[actions]).clamp(0, SIDE - 1)
    return after, (after == SIDE - 1).all(dim=-1).float()


def seen(places: Tensor) -> Tensor:
    """What the network is shown of a place."""
    return torch.cat([functional.one_hot(axis, SIDE).float() for axis in places.unbind(-1)], dim=-1)


class Memory:
    """Moves from anywhere: places, actions, places after, rewards."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for _ in range(50):
            places, actions = torch.randint(SIDE, (64, 2)), torch.randint(4, (64,))
            yield places, actions, *moved(places, actions)


class QNetwork(nn.Module):
    """Mnih et al. 2015; the targets come from an average of the weights, which slowly follows."""

    def __init__(self) -> None:
        super().__init__()
        self.online = dense(2 * SIDE, [64] * 2, 4)
        self.target = dense(2 * SIDE, [64] * 2, 4).requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())

    @torch.no_grad()
    def follow(self, share: float = 0.05) -> None:
        for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
            old.lerp_(new, share)


def temporal_difference(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    assert isinstance(model, QNetwork)
    places, actions, after, rewards = batch
    if model.training:
        model.follow()
    with torch.no_grad():
        best = model.target(seen(after)).amax(dim=1)
        wanted = rewards + DISCOUNT * (1 - rewards) * best
    values = model.online(seen(places)).gather(1, actions.unsqueeze(1)).squeeze(1)
    return functional.smooth_l1_loss(values, wanted)


@cache
def everywhere() -> Tensor:
    axis = torch.arange(SIDE)
    return torch.cartesian_prod(axis, axis)


@cache
def true_values() -> Tensor:
    """What each action is worth everywhere, (places, actions), by value iteration."""
    values = torch.zeros(SIDE * SIDE, 4)
    for _ in range(100):
        for action in range(4):
            after, reward = moved(everywhere(), torch.full((SIDE * SIDE,), action))
            best = values[after[:, 0] * SIDE + after[:, 1]].amax(dim=1)
            values[:, action] = reward + DISCOUNT * (1 - reward) * best
    return values


def value_error(model: nn.Module) -> dict[str, float]:
    assert isinstance(model, QNetwork)
    off = model.online(seen(everywhere())) - true_values()
    return {"error": float(off.square().mean().sqrt())}


class Sights:
    """What is to be answered by one of four actions, (batch, 8)."""

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(50):
            yield torch.randn(128, 8)


@cache
def best_answers() -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(16))


def rewarded(sights: Tensor, actions: Tensor) -> Tensor:
    return ((sights @ best_answers()).argmax(dim=1) == actions).float()


def mean_error(model: nn.Module) -> dict[str, float]:
    """The share of sights that the likeliest action is wrong for."""
    sights = torch.randn(1024, 8, generator=torch.Generator().manual_seed(17))
    return {"error": 1 - float(rewarded(sights, model(sights)[:, :4].argmax(dim=1)).mean())}


def policy_gradient(model: nn.Module, batch: Tensor) -> Tensor:
    """Williams 1992, with the mean reward as the baseline."""
    policy = torch.distributions.Categorical(logits=model(batch))
    actions = policy.sample()
    reward = rewarded(batch, actions)
    return -((reward - reward.mean()) * policy.log_prob(actions)).mean()


def actor_and_critic() -> nn.Module:
    """Weights as is usual for it: orthogonal, those of the policy nearly zero."""
    model = dense(8, [64] * 2, 5, nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        model[-1].weight[:4] *= 0.01
    return model


def advantage(model: nn.Module, batch: Tensor) -> Tensor:
    """Mnih et al. 2016: policy, value, and a little for entropy."""
    logits, value = model(batch).split([4, 1], dim=1)
    policy = torch.distributions.Categorical(logits=logits)
    actions = policy.sample()
    better = rewarded(batch, actions) - value.squeeze(1)
    gain = (better.detach() * policy.log_prob(actions)).mean()
    return -gain + 0.5 * better.square().mean() - 0.01 * policy.entropy().mean()


CASES = (
    *fresh_and_trained(
        "q-network",
        QNetwork,
        adam(2e-3),
        step=temporal_difference,
        data=Memory,
        trained=500,
        evaluate=value_error,
    ),
    *fresh_and_trained(
        "policy-gradient",
        lambda: dense(8, [64] * 2, 4),
        adam(3e-3),
        step=policy_gradient,
        data=Sights,
        trained=300,
        evaluate=mean_error,
    ),
    *fresh_and_trained(
        "actor-and-critic",
        actor_and_critic,
        clipped(adam(3e-3), 0.5),
        step=advantage,
        data=Sights,
        trained=300,
        evaluate=mean_error,
    ),
)
