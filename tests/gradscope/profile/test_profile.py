"""A profile's numbers against a second implementation: plain functions of the parameters in
float64, differentiated by torch.autograd.grad, reduced by NumPy; no module and no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope
from gradscope.profile import profile_steps
from gradscope.records import Profile, Role

Parameters = Mapping[str, Tensor]
STEPS = 3


@dataclass
class Pass:
    """One forward pass as the second implementation sees it.

    ``sites`` are in execution order, each with the axis of its units; ``slopes`` are derivatives
    over their maximum at the sites of bounded activations.
    """

    samples: int
    loss: Tensor | None = None
    sites: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    rectified: list[str] = field(default_factory=list)

    def see(self, name: str, y: Tensor, axis: int = 1) -> Tensor:
        self.sites[name] = y, axis
        return y

    def relu(self, name: str, z: Tensor) -> Tensor:
        self.rectified.append(name)
        return self.see(name, z.clamp(min=0))

    def sigmoid(self, name: str, z: Tensor) -> Tensor:
        y = 1 / (1 + torch.exp(-z))
        self.slopes[name] = 4 * y * (1 - y)
        return self.see(name, y)

    def tanh(self, name: str, z: Tensor) -> Tensor:
        y = torch.exp(z) / (torch.exp(z) + torch.exp(-z)) * 2 - 1
        self.slopes[name] = 1 - y**2
        return self.see(name, y)


Forward = Callable[[Parameters, Any], Pass]


def numbers(x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return x.detach().numpy().astype(np.float64)


def rms(x: Tensor) -> float:
    return float(np.sqrt(np.mean(numbers(x) ** 2)))


def variation(x: Tensor) -> float:
    return float(np.sqrt(numbers(x).var(axis=0).mean())) / rms(x)


def correlation(x: Tensor) -> float:
    rows = numbers(x).reshape(len(x), -1)[:64]
    rows = rows[rows.std(axis=1) > 0]
    return float((np.corrcoef(rows).sum() - len(rows)) / (min(len(x), 64) * (min(len(x), 64) - 1)))


def by_unit(x: Tensor, axis: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = np.moveaxis(numbers(x), axis, 0)
    return values.reshape(len(values), -1)


def hold_against(
    profile: Profile,
    forward: Forward,
    parameters: Parameters,
    batches: list[Any],
    update: Callable[[dict[str, Tensor], list[Tensor]], None] | None = None,
) -> None:
    """Asserts that a profile over the first batches agrees with ``forward`` on all of them."""

    def near(expected: float) -> Any:
        return pytest.approx(expected, rel=1e-5, abs=0)

    current = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    passes = []
    for step, batch in enumerate(batches):
        seen = forward(current, batch)
        passes.append(seen)
        if step >= STEPS:
            continue
        assert seen.loss is not None
        outputs = [y for y, _ in seen.sites.values()]
        wanted = [*outputs, *current.values()]
        gradients = torch.autograd.grad(seen.loss, wanted, allow_unused=True)
        assert profile.losses[step] == near(float(seen.loss.detach()))
        assert [site.name for site in profile.sites] == list(seen.sites)
        for site, y, gradient in zip(profile.sites, outputs, gradients, strict=False):
            assert site.forward_rms[step] == near(rms(y)), site.name
            assert site.variation[step] == near(variation(y)), site.name
            assert site.correlation[step] == near(correlation(y)), site.name
            assert gradient is not None
            assert site.backward_rms[step] == near(rms(gradient) * seen.samples), site.name
            assert site.forward_nonfinite[step] == site.backward_nonfinite[step] == 0
        for entry, gradient in zip(profile.parameters, gradients[len(outputs) :], strict=True):
            if gradient is None:
                assert entry.gradient_norm[step] is None, entry.name
            else:
                norm = float(np.linalg.norm(numbers(gradient)))
                assert entry.gradient_norm[step] == near(norm), entry.name
        if update is not None:
            before = {name: p.detach().clone() for name, p in current.items()}
            update(current, list(gradients[len(outputs) :]))
            for entry in profile.parameters:
                moved = float(np.linalg.norm(numbers(current[entry.name] - before[entry.name])))
                old = float(np.linalg.norm(numbers(before[entry.name])))
                assert entry.update_ratio[step] == near(moved / old), entry.name

    for site in profile.sites:
        axis = passes[0].sites[site.name][1]
        units = [by_unit(one.sites[site.name][0], axis) for one in passes]
        observed = np.concatenate(units, axis=1)
        assert site.units == len(observed), site.name
        assert site.observations == observed.shape[1], site.name
        if site.name in passes[0].rectified:
            assert site.dead == near(float((observed <= 0).all(axis=1).mean())), site.name
        else:
            assert site.dead is None, site.name
        if site.name in passes[0].slopes:
            slopes = np.concatenate([by_unit(one.slopes[site.name], axis) for one in passes], 1)
            share = ((slopes < 0.01).mean(axis=1) >= 0.95).mean()
            assert site.saturated == near(float(share)), site.name
        else:
            assert site.saturated is None, site.name
    for entry in profile.parameters:
        weight = parameters[entry.name]
        assert entry.weight_norm == near(float(np.linalg.norm(numbers(weight))))
        assert entry.shape == tuple(weight.shape)
        assert entry.nonfinite == 0


def pairs(count: int, *shape: int, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(*shape, generator=generator, dtype=torch.float64),
            torch.randint(classes, shape[:1], generator=generator),
        )
        for _ in range(count)
    ]


def cross_entropy(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(output, batch[1])


def log_loss(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return (torch.logsumexp(logits, dim=1) - chosen).mean()


# --- Models -----------------------------------------------------------------------------------


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Sigmoid(), nn.Linear(5, 3)
    ).double()
    with torch.no_grad():
        model[0].bias[:2] = 9.0  # two units of eight are saturated
        model[2].bias[0] = -9.0
    return model


def perceptron_forward(p: Parameters, batch: tuple[Tensor, Tensor]) -> Pass:
    x, targets = batch
    seen = Pass(len(x))
    h = seen.tanh("1", seen.see("0", x @ p["0.weight"].T + p["0.bias"]))
    h = seen.sigmoid("3", seen.see("2", h @ p["2.weight"].T + p["2.bias"]))
    seen.loss = log_loss(seen.see("4", h @ p["4.weight"].T + p["4.bias"]), targets)
    return seen


def test_perceptron() -> None:
    model, batches = perceptron(), pairs(5, 70, 6)
    profile = gradscope.profile(model, batches, cross_entropy, steps=STEPS)
    hold_against(profile, perceptron_forward, dict(model.named_parameters()), batches)
    assert profile.site("1").saturated == 2 / 8
    assert profile.site("3").saturated == 1 / 5
    assert profile.input_variation == pytest.approx([variation(x) for x, _ in batches[:STEPS]])
    assert [site.is_output for site in profile.sites] == [False] * 4 + [True]
    assert [site.role for site in profile.sites] == [
        Role.LAYER, Role.ACTIVATION, Role.LAYER, Role.ACTIVATION, Role.LAYER,
    ]  # fmt: skip
    assert profile.batch_size == 70


def test_perceptron_with_updates() -> None:
    velocity: dict[str, Tensor] = {}

    def momentum(parameters: dict[str, Tensor], gradients: list[Tensor]) -> None:
        for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
            decayed = gradient + 0.01 * p.detach()
            velocity[name] = 0.9 * velocity[name] + decayed if name in velocity else decayed
            parameters[name] = (p.detach() - 0.5 * velocity[name]).requires_grad_()

    model, batches = perceptron(), pairs(STEPS, 70, 6)
    profile = gradscope.profile(
        model,
        batches,
        cross_entropy,
        steps=STEPS,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.01),
    )
    parameters = dict(model.named_parameters())
    hold_against(profile, perceptron_forward, parameters, batches, momentum)
    assert (profile.optimizer, profile.epsilon) == ("SGD", None)


def test_convolutions_with_batchnorm_and_in_place_relu() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),  # a bias before BatchNorm has no gradient
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(24, 3),
    ).double()
    with torch.no_grad():
        model[1].bias[1] = -50.0  # channel 1 of four is dead

    def forward(p: Parameters, batch: tuple[Tensor, Tensor]) -> Pass:
        x, targets = batch
        seen = Pass(len(x))
        z = seen.see("0", functional.conv2d(x, p["0.weight"], padding=1))
        mean = z.mean(dim=(0, 2, 3), keepdim=True)
        spread = (z - mean).square().mean(dim=(0, 2, 3), keepdim=True)
        gain, shift = (p[f"1.{name}"].reshape(1, 4, 1, 1) for name in ("weight", "bias"))
        z = seen.see("1", (z - mean) / (spread + 1e-5).sqrt() * gain + shift)
        h = seen.relu("2", z)
        h = seen.relu("4", seen.see("3", functional.conv2d(h, p["3.weight"], p["3.bias"])))
        output = h.reshape(len(h), -1) @ p["6.weight"].T + p["6.bias"]
        seen.loss = log_loss(seen.see("6", output), targets)
        return seen

    batches = pairs(4, 40, 2, 4, 4)
    profile = gradscope.profile(model, batches, cross_entropy, steps=STEPS)
    # The smallest site sees 4 positions of 40 samples; the further batch is counted too.
    hold_against(profile, forward, dict(model.named_parameters()), batches)
    assert profile.site("2").dead == 1 / 4
    assert profile.site("3").units == 6


class Reused(nn.Module):
    """One activation module used twice, and a layer that only some steps reach."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 7)
        self.second = nn.Linear(7, 7)
        self.last = nn.Linear(7, 3)
        self.unused = nn.Linear(2, 2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        return self.last(self.act(self.second(h)) + h)  # type: ignore[no-any-return]


def test_an_activation_that_is_used_twice() -> None:
    def forward(p: Parameters, batch: tuple[Tensor, Tensor]) -> Pass:
        x, targets = batch
        seen = Pass(len(x))
        h = seen.relu("act", seen.see("first", x @ p["first.weight"].T + p["first.bias"]))
        z = seen.see("second", h @ p["second.weight"].T + p["second.bias"])
        h = seen.relu("act@1", z) + h
        output = seen.see("last", h @ p["last.weight"].T + p["last.bias"])
        seen.loss = log_loss(output, targets)
        return seen

    torch.manual_seed(0)
    model, batches = Reused().double(), pairs(4, 30, 6)
    profile = gradscope.profile(model, batches, cross_entropy, steps=STEPS)
    hold_against(profile, forward, dict(model.named_parameters()), batches)
    reached = {entry.name: entry.reached for entry in profile.parameters}
    assert [name for name, was in reached.items() if not was] == ["unused.weight", "unused.bias"]


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)
        self.act = nn.Sigmoid()
        self.head = nn.Linear(5, 3)

    def forward(self, *, mask: Tensor, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.act(self.layer(features)) * mask), "labels": labels}


def test_batches_that_are_mappings() -> None:
    def forward(p: Parameters, batch: dict[str, Tensor]) -> Pass:
        seen = Pass(len(batch["features"]))
        z = seen.see("layer", batch["features"] @ p["layer.weight"].T + p["layer.bias"])
        h = seen.sigmoid("act", z) * batch["mask"]
        output = seen.see("head", h @ p["head.weight"].T + p["head.bias"])
        seen.loss = log_loss(output, batch["labels"])
        return seen

    torch.manual_seed(0)
    model = Keyed().double()
    batches = [
        {"mask": (x[:, :5] > 0).double(), "features": x, "labels": targets}
        for x, targets in pairs(STEPS, 20, 6)
    ]
    profile = gradscope.profile(
        model,
        batches,
        lambda output, batch: functional.cross_entropy(output["logits"], batch["labels"]),
        steps=STEPS,
    )
    hold_against(profile, forward, dict(model.named_parameters()), batches)
    assert profile.site("head").is_output


@pytest.mark.parametrize("whole", [True, False], ids=["through the model", "through its parts"])
def test_a_step_of_ones_own(whole: bool) -> None:
    """Two views of each sample through the same model, pulled together."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        def call(x: Tensor) -> Tensor:
            if whole:
                return model(x)  # type: ignore[no-any-return]
            for part in model.children():
                x = part(x)
            return x

        return (call(batch[0]) - call(batch[1])).square().sum(dim=1).mean()

    def forward(p: Parameters, batch: tuple[Tensor, Tensor]) -> Pass:
        seen = Pass(len(batch[0]))
        outputs = []
        for x, use in zip(batch, ("", "@1"), strict=True):
            h = seen.tanh(f"1{use}", seen.see(f"0{use}", x @ p["0.weight"].T + p["0.bias"]))
            outputs.append(seen.see(f"2{use}", h @ p["2.weight"].T + p["2.bias"]))
        seen.loss = (outputs[0] - outputs[1]).square().sum(dim=1).mean()
        return seen

    views = [(x, x.flip(0) * 0.5) for x, _ in pairs(STEPS, 20, 6)]
    profile = profile_steps(model, views, step, steps=STEPS)
    hold_against(profile, forward, dict(model.named_parameters()), views)
