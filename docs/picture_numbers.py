"""What the pictures of docs/concepts show, measured anew; ``pictures.py`` draws it.

All is seeded and takes a few seconds. What is trained or profiled is small; numbers of experiments
that take longer are read from docs/experiments.
"""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gradscope
from gradscope.derivatives import derivative
from gradscope.examples import deep_sigmoid_mlp, healthy_cnn, healthy_mlp
from gradscope.records import Profile, Role
from gradscope.rules.signal import backward_sites, trunk, typical

__all__ = ["Row", "numbers"]

BIAS_METER = Path(__file__).parent / "experiments" / "bias-meter.json"

Row = dict[str, Any]


def numbers() -> dict[str, list[Row]]:
    """What each picture shows, by its name: one row for each point."""
    torch.manual_seed(0)
    return {
        "backward-signal": _signals(),
        "norm-against-signal": _norms(),
        "forward-collapse": _variations(),
        "derivatives": _derivatives(),
        "dead-unit": _dead_unit(),
        "bias": _bias(),
        "matched-trials": _trials(),
    }


def _signals() -> list[Row]:
    return [
        {"network": name, "layer": index, "signal": typical(site)}
        for name, profile in _profiles().items()
        for index, site in enumerate(backward_sites(profile), 1)
    ]


def _variations() -> list[Row]:
    return [
        {
            "network": name,
            "layer": index,
            "variation": statistics.median(site.variation)
            / statistics.median(profile.input_variation),
        }
        for name, profile in _profiles().items()
        for index, site in enumerate(
            (site for site in trunk(profile) if site.role is Role.ACTIVATION), 1
        )
    ]


def _profiles() -> dict[str, Profile]:
    """Of the slides' network and of two that learn, on the shipped sample of Fashion-MNIST."""
    if not _CACHE:
        for name, activation, initialise, norm in (
            ("sigmoid, N(0, 0.05)", nn.Sigmoid, _slides, False),
            ("the same, BatchNorm", nn.Sigmoid, _slides, True),
            ("ReLU, He", nn.ReLU, _he, False),
        ):
            torch.manual_seed(0)
            model = _mlp(activation, initialise, norm)
            _CACHE[name] = gradscope.profile(
                model,
                deep_sigmoid_mlp.build_data(),
                deep_sigmoid_mlp.loss,
                optimizer=deep_sigmoid_mlp.build_optimizer,
            )
    return _CACHE


_CACHE: dict[str, Profile] = {}


def _mlp(activation: type[nn.Module], initialise: Any, norm: bool) -> nn.Module:
    width, layers = deep_sigmoid_mlp.WIDTH, deep_sigmoid_mlp.HIDDEN_LAYERS
    parts: list[nn.Module] = [nn.Flatten()]
    for fan_in in [28 * 28] + [width] * (layers - 1):
        parts += [nn.Linear(fan_in, width), *([nn.BatchNorm1d(width)] * norm), activation()]
    model = nn.Sequential(*parts, nn.Linear(width, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            initialise(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def _slides(weight: Tensor) -> None:
    nn.init.normal_(weight, 0.0, deep_sigmoid_mlp.WEIGHT_STD)


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _norms() -> list[Row]:
    """Of two healthy networks: the norms of the weights' gradients beside the backward signal."""
    rows = []
    for name, example in (("MLP", healthy_mlp), ("CNN", healthy_cnn)):
        torch.manual_seed(0)
        profile = gradscope.profile(
            example.build_model(),
            example.build_data(),
            example.loss,
            optimizer=example.build_optimizer,
        )
        found = gradscope.diagnose(profile).items
        assert not found, f"the {name} is meant to be healthy, and has {found[0].name}"
        signal = [typical(site) for site in backward_sites(profile)]
        weights = [entry for entry in profile.parameters if len(entry.shape) > 1][: len(signal)]
        norms = [statistics.median(each or 0.0 for each in one.gradient_norm) for one in weights]
        rows += [
            {"network": name, "measure": measure, "layer": index, "share": value / series[-1]}
            for measure, series in (
                ("norm of weight's gradient", norms),
                ("backward signal", signal),
            )
            for index, value in enumerate(series, 1)
        ]
    return rows


def _derivatives() -> list[Row]:
    """The slope at each input, true and artificial, as autograd gives it."""
    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    functions = {
        ("ReLU", "true"): torch.relu,
        ("ReLU", "artificial: σ(x)"): derivative("relu-logistic", {"k": 1.0, "selective": False}),
        ("sigmoid", "true"): torch.sigmoid,
        ("sigmoid", "artificial: min(y, 1 − y)"): derivative("sigmoid-min", {}),
    }
    rows = []
    for (of, name), function in functions.items():
        given = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(given).sum(), given)
        rows += [
            {"of": of, "derivative": name, "x": round(at, 3), "slope": float(f"{value:.4g}")}
            for at, value in zip(x.tolist(), slope.tolist(), strict=True)
        ]
    return rows


def _dead_unit() -> list[Row]:
    """Gradient of each of eight units' biases: two are dead; with three backward passes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias[:2] = -3.0
    x = torch.randn(256, 8)
    target = x[:, :1].abs()
    rows = []
    for name, options in (
        ("true", None),
        ("selective (default)", {}),
        ("for all units", {"selective": False}),
    ):
        patch = options is not None and gradscope.replace_derivative(
            model, "relu-logistic", **options
        )
        model.zero_grad()
        nn.functional.mse_loss(model(x), target).backward()
        gradient = model[0].bias.grad
        rows += [
            {"backward": name, "unit": unit, "gradient": float(f"{abs(value):.3g}")}
            for unit, value in enumerate(gradient.tolist(), 1)
        ]
        if patch:
            patch.undo()
    return rows


def _bias() -> list[Row]:
    """Mean cosines of the first layer's gradient, from the kept run of the bias meter."""
    results = json.loads(BIAS_METER.read_text("utf-8"))["results"]
    rows = []
    for k in (1.0, 3.5, 20.0):
        for depth in sorted({entry["depth"] for entry in results}):
            cosines = [
                entry["first_cosine"]
                for entry in results
                if (entry["weights"], entry["derivative"]) == ("He", "relu-logistic")
                and (entry["depth"], entry.get("k")) == (depth, k)
                and not entry.get("selective", False)
            ]
            rows.append({"k": f"k = {k:g}", "layers": depth, "cosine": statistics.mean(cosines)})
    return rows


def _trials() -> list[Row]:
    """Seven sigmoid layers on five seeds: nothing, a larger step, other activations."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 8, generator=generator)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    rows = []
    for name, activation, rate in (
        ("do nothing", nn.Sigmoid, 0.1),
        ("learning rate x3", nn.Sigmoid, 0.3),
        ("tanh", nn.Tanh, 0.1),
    ):
        for seed in range(5):
            torch.manual_seed(seed)
            widths = [8] + [32] * 7
            parts: list[nn.Module] = []
            for fan_in, fan_out in pairwise(widths):
                parts += [nn.Linear(fan_in, fan_out), activation()]
            model = nn.Sequential(*parts, nn.Linear(32, 4))
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            order = torch.Generator().manual_seed(seed)
            for _ in range(300):
                rows_of_batch = torch.randint(0, 1536, (32,), generator=order)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows_of_batch]), y[rows_of_batch]).backward()
                optimizer.step()
            right = (model(x[1536:]).argmax(dim=1) == y[1536:]).float().mean().item()
            rows.append({"arm": name, "seed": seed + 1, "accuracy": round(right, 3)})
    return rows
