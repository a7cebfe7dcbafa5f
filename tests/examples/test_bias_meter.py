"""The bias meter: its numbers against plain torch, its limits, and the run that is kept."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradscope.examples import bias_meter as meter
from gradscope.examples.experiments.results import Run, read_run

FILE = Path(meter.__file__)
KEPT = Path(__file__).parents[2] / "docs/experiments/bias-meter.json"


def backpropagated(model: nn.Sequential, batch: meter.Batch, k: float | None) -> list[Tensor]:
    """Gradients of weights and biases, last layer first, by hand; true ones where k is None."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    inputs, before = [batch[0].flatten(1)], []
    for layer in layers:
        before.append(inputs[-1] @ layer.weight.T + layer.bias)
        inputs.append(before[-1].clamp_min(0))
    signal = (before[-1].softmax(dim=1) - torch.eye(10)[batch[1]]) / len(batch[1])
    gradients = [signal.T @ inputs[-2], signal.sum(dim=0)]
    for index in range(len(layers) - 2, -1, -1):
        x = before[index]
        slope = (x > 0).double() if k is None else 1 / (1 + torch.exp(-k * x))
        signal = (signal @ layers[index + 1].weight) * slope
        gradients += [signal.T @ inputs[index], signal.sum(dim=0)]
    return [gradient.detach() for gradient in gradients]


@pytest.mark.parametrize("weights", meter.RELU_WEIGHTS)
def test_the_cosines_are_those_of_a_backward_pass_by_hand(weights: str) -> None:
    torch.manual_seed(4)
    model, batch = meter.build_model(5, nn.ReLU, weights), meter.draw_batch()
    found = meter.measure(model, batch, meter.RELU, k=3.5, selective=False)
    artificial, true = (backpropagated(model, batch, k) for k in (3.5, None))
    left, right = (torch.cat([each.flatten() for each in all_]) for all_ in (artificial, true))
    first = artificial[-2].flatten(), true[-2].flatten()
    expected = {
        "cosine": left @ right / left.norm() / right.norm(),
        "first_cosine": first[0] @ first[1] / first[0].norm() / first[1].norm(),
        "first_ratio": first[0].norm() / first[1].norm(),
    }
    assert found == pytest.approx({key: value.item() for key, value in expected.items()}, rel=1e-4)
    assert 0 < found["first_cosine"] < found["cosine"] < 0.99


def test_a_step_is_the_limit_of_steepness() -> None:
    torch.manual_seed(0)
    model, batch = meter.build_model(6, nn.ReLU, meter.HE), meter.draw_batch()
    found = [
        meter.measure(model, batch, meter.RELU, k=k, selective=False)
        for k in (1.0, 10.0, 100.0, 10000.0)
    ]
    for less, more in pairwise(found):
        assert less["cosine"] < more["cosine"]
        assert less["first_ratio"] < more["first_ratio"]
    assert found[0]["cosine"] < 0.8
    assert found[-1] == pytest.approx(dict.fromkeys(meter.QUANTITIES, 1), abs=1e-3)


def test_on_a_live_network_the_selective_one_is_exact() -> None:
    torch.manual_seed(0)
    model, batch = meter.build_model(6, nn.ReLU, meter.HE), meter.draw_batch()
    images = batch[0]
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):  # Centred on the batch, each unit is live on some.
                layer.bias.copy_(-(images @ layer.weight.T).mean(dim=0))
            images = layer(images)
    exact = dict.fromkeys(meter.QUANTITIES, 1.0)
    assert meter.dead_share(model, batch[0]) == 0
    assert meter.measure(model, batch, meter.RELU, k=2.0, selective=True) == exact
    assert meter.measure(model, batch, meter.RELU, k=2.0, selective=False)["cosine"] < 0.99
    # With units of the first layer that are dead it is not.
    first = model[1]
    assert isinstance(first, nn.Linear)
    nn.init.constant_(first.bias[:16], -30.0)
    assert meter.dead_share(model, batch[0]) >= 16 / (6 * meter.WIDTH)
    found = meter.measure(model, batch, meter.RELU, k=0.1, selective=True)
    assert found["first_cosine"] < 1 < found["first_ratio"]


@pytest.mark.parametrize("weights", [meter.PYTORCH, meter.NORMAL])
@pytest.mark.parametrize("depth", [6, 20])
def test_most_of_a_decaying_gradient_is_the_output_layers(weights: str, depth: int) -> None:
    torch.manual_seed(0)
    model, batch = meter.build_model(depth, nn.ReLU, weights), meter.draw_batch()
    gradients = backpropagated(model, batch, None)
    squares = [gradient.square().sum().item() for gradient in gradients]
    assert sum(squares[:2]) > 0.5 * sum(squares)


def test_the_initialisations_are_what_they_are_called() -> None:
    for weights, deviation in ((meter.HE, 0.125), (meter.NORMAL, 0.05), (meter.XAVIER, 128**-0.5)):
        torch.manual_seed(0)
        model = meter.build_model(3, nn.ReLU, weights)
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        assert [layer.in_features for layer in layers] == [784, 128, 128, 128]
        assert layers[1].weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert not any(layer.bias.any() for layer in layers)


@pytest.mark.parametrize(
    ("values", "is_ratio", "text"),
    [
        ((0.7, 0.72, 0.74), False, "0.72(1)"),
        ((0.99, 0.99), False, "0.990(0)"),
        ((-0.5,), False, "-0.500"),
        ((0.9, math.nan), False, "–"),
        ((1.4, 1.6), True, "1.5(1)"),
        ((4e-5, 4.2e-5), True, "4.1e-5"),
        ((1100.0, 1300.0), True, "1.2e3"),
        ((0.0, 0.0), True, "0.0e0"),
    ],
)
def test_a_cell_has_the_digits_that_its_error_leaves(
    values: tuple[float, ...], is_ratio: bool, text: str
) -> None:
    assert meter.shown(values, is_ratio) == text


def test_the_tables_are_printed_and_written(tmp_path: Path) -> None:
    written = tmp_path / "bias.json"
    options = ("--depths", "1", "3", "--k", "2", "50", "--seeds", "1", "--json", written)
    ran = subprocess.run(
        [sys.executable, "-W", "error", FILE, *options], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    run = read_run(written)
    assert run.settings == json.loads(KEPT.read_text())["settings"] | {"seeds": 1}
    found = {
        each["k"]: each["cosine"]
        for each in run.results
        if (each["weights"], each["depth"], each["derivative"]) == (meter.HE, 3, meter.RELU)
    }
    assert found[2] < found[50] < 1
    assert f"{found[2]:.3f}  " in ran.stdout
    for table in meter.tables(run):
        assert [row[0] for row in table.rows] == ["1", "3"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--depths", "0"), "--depths: 0 is too few; give 1 or more"),
        (("--k", "0"), "k is above 0"),
        (("--seeds", "0"), "--seeds: 0 is too few; give 1 or more"),
    ],
)
def test_settings_without_meaning_are_refused(
    options: tuple[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [str(FILE), *options])
    with pytest.raises(SystemExit, match="2"):
        meter.main()
    assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def kept() -> Run:
    return read_run(KEPT)


def test_the_kept_run_has_every_cell(kept: Run) -> None:
    assert kept.command == f"python examples/{FILE.name}"
    relu = [(meter.RELU, k) for k in meter.STEEPNESSES] + [(meter.SELECTIVE, meter.SELECTIVE_K)]
    kinds = [(weights, *kind) for weights in meter.RELU_WEIGHTS for kind in relu]
    kinds += [(weights, kind, None) for weights in meter.SIGMOID_WEIGHTS for kind in meter.SIGMOIDS]
    expected = {
        (*kind, depth, seed)
        for kind in kinds
        for depth in meter.DEPTHS
        for seed in range(meter.SEEDS)
    }
    found = [
        (each["weights"], each["derivative"], each.get("k"), each["depth"], each["seed"])
        for each in kept.results
    ]
    assert len(found) == len(expected)
    assert set(found) == expected
    for table in meter.tables(kept):
        assert [row[0] for row in table.rows] == [str(depth) for depth in meter.DEPTHS]
        assert {len(row) for row in table.rows} == {len(table.headings)}
        assert "–" not in {cell for row in table.rows for cell in row}


@pytest.mark.parametrize("seed", [0, 3])
def test_the_kept_run_is_what_is_measured(kept: Run, seed: int) -> None:
    again = list(meter.measure_all(4, meter.STEEPNESSES, seed))
    before = [each for each in kept.results if (each["depth"], each["seed"]) == (4, seed)]
    assert len(again) == len(before)
    for one, other in zip(again, before, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            exact = isinstance(value, str)
            assert value == (other[name] if exact else pytest.approx(other[name], rel=1e-3))
