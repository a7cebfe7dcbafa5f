"""The paper's Tables 2 and 4: the networks are its, and so are the figures that are kept."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest
import torch

from gradscope.examples import paper_relu_approximation as relu
from gradscope.examples import paper_sigmoid_comparison as sigmoid
from gradscope.examples.experiments.approximation import Losses, agrees, compared, distribution
from gradscope.examples.experiments.ensemble import Ensemble, Task, train
from gradscope.examples.experiments.results import mean, read_run, standard_error
from gradscope.examples.experiments.significance import p_value

ROOT = Path(__file__).parents[2]
KEPT = {
    module: read_run(ROOT / "docs" / "experiments" / f"{name}.json")
    for module, name in ((relu, "paper-relu-approximation"), (sigmoid, "paper-sigmoid-comparison"))
}
LAYERS = {"A": (12, 13, 14, 15), "B": (4, 5, 6, 7)}


def losses(*values: float, arm: str = "AD", layers: int = 2) -> Losses:
    return Losses("A", "default", layers, arm, 0.003, values, 1.0)


def kept(module: ModuleType) -> dict[tuple[str, str, int, str, float], Losses]:
    found = [Losses.read(entry) for entry in KEPT[module].results]
    return {(each.set, each.start, each.layers, each.arm, each.rate): each for each in found}


def ensemble(task: Task) -> Ensemble:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return Ensemble(task.widths, task.initialise, task.activation, task.ends, generators)


@pytest.mark.parametrize("layers", relu.LAYERS)
def test_relu_networks_have_the_papers_weights_and_biases(layers: int) -> None:
    made = ensemble(relu.task("A", layers, relu.ARMS["ReLU"], 0.003, 1))
    assert sum(weight[..., 0].numel() for weight in made.weights) == 4 + 4 * (layers - 2)
    assert sum(bias[..., 0].numel() for bias in made.biases) == 3 + 2 * (layers - 2)
    assert not made.ends, "n layers have n - 1 ReLUs"


@pytest.mark.parametrize("layers", [*LAYERS["A"], *LAYERS["B"]])
def test_sigmoid_networks_have_the_papers_weights_and_biases(layers: int) -> None:
    name = "A" if layers in LAYERS["A"] else "B"
    made = ensemble(sigmoid.task(name, "Xavier", layers, sigmoid.ARMS["sigmoid"], 0.03, 1))
    assert sum(weight[..., 0].numel() for weight in made.weights) == 6 + 4 * (layers - 2)
    assert sum(bias[..., 0].numel() for bias in made.biases) == 3 + 2 * (layers - 2)
    assert made.ends, "n layers have n sigmoids"


def test_the_data_are_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = relu.draw(20000, generator)
    assert torch.equal(y, x.abs())
    assert x.abs().max() < math.sqrt(3)
    assert x.std().item() == pytest.approx(1, abs=0.02), "U(-sqrt 3, sqrt 3) has variance 1"
    pairs, target = sigmoid.draw(20000, generator)
    assert pairs.shape == (2, 20000)
    assert torch.equal(target[0] == 1, pairs[0] < pairs[1])
    assert (relu.SAMPLES, sigmoid.SAMPLES) == ((3000, 1000), (3000, 500))


def test_the_papers_figures() -> None:
    # One of each corner of the two tables, typed off again.
    assert relu.PAPER["A", 2, "AD ReLU"] == "0.026"
    assert relu.PAPER["A", 8, "Leaky ReLU"] == "0.025"
    assert relu.PAPER["B", 8, "ReLU"] == "0.209"
    assert relu.PAPER["B", 4, "AD ReLU"] == "0.0557"
    assert sigmoid.PAPER["A", 12, "AD sigmoid"] == "0.012"
    assert sigmoid.PAPER["A", 14, "sigmoid"] == "0.221"
    assert sigmoid.PAPER["B", 6, "Isigmoid"] == "0.937"
    assert sigmoid.PAPER["B", 5, "AD sigmoid"] == "0.149"
    assert len(relu.PAPER) == len(sigmoid.PAPER) == 24


def test_agreeing_is_two_standard_errors_or_the_rounding() -> None:
    spread = losses(0.1, 0.2, 0.3)
    error = standard_error(spread.losses)
    assert agrees(spread, f"{0.2 + 1.9 * error:.6f}")
    assert not agrees(spread, f"{0.2 + 2.1 * error:.6f}")
    assert agrees(losses(0.2496, 0.2496), "0.25")
    assert not agrees(losses(0.2496, 0.2496), "0.249")


def test_p_values() -> None:
    low, high = [0.1, 0.2] * 20, [0.15, 0.21] * 20
    assert p_value(low, high) < 1e-4
    assert p_value(high, low) > 0.99
    # Few runs differ by much, all others not at all: signs alone would see nothing.
    assert p_value([0.0] * 90 + [0.0] * 10, [0.0] * 90 + [0.25] * 10) == pytest.approx(
        2**-10, rel=0.4
    )
    assert math.isnan(p_value([math.inf, 0.1], [0.2, 0.2]))
    assert math.isnan(p_value([0.1], [0.2]))


def test_a_table_sets_ours_beside_the_papers() -> None:
    cells = [losses(0.2, 0.3, arm="plain"), losses(0.1, 0.1), losses(0.1, 0.4, layers=3)]
    cells.append(losses(0.2, 0.3, arm="plain", layers=3))
    table = compared("T", cells, {("A", 2, "AD"): "0.10", ("A", 2, "plain"): "0.9"}, "plain")
    assert table.rows[0][:6] == ("2", "plain", "0.2500", "0.0500", "0.25", "0.9")
    assert [row[6] for row in table.rows] == ["no", "yes", "", ""]
    assert table.rows[0][7] == ""
    assert float(table.rows[1][7]) == pytest.approx(0.25, abs=0.01)


def test_what_diverged_has_no_mean() -> None:
    table = compared("T", [losses(0.2, math.inf, 0.1, arm="plain")], {}, "plain")
    assert table.rows[0][2:5] == ("1 diverged", "–", "0.2")


def test_a_distribution_counts_every_run() -> None:
    table = distribution("T", [losses(0.0005, 0.001, 0.03, 0.15, 0.25, math.inf, 9.0)])
    assert table.headings[2:] == (
        *("< 0.001", "0.001–0.01", "0.01–0.05", "0.05–0.1", "0.1–0.2", "≥ 0.2"),
    )
    assert table.rows == [("2", "AD", "1", "1", "1", "0", "1", "3")]


@pytest.mark.parametrize("module", [relu, sigmoid])
def test_the_kept_run_is_whole(module: ModuleType) -> None:
    found = kept(module)
    made = {
        (each.set, each.start, each.layers, each.arm, each.task.rate) for each in module.cells(300)
    }
    assert found.keys() == made
    assert {len(each.losses) for each in found.values()} == {100}
    assert KEPT[module].settings["epochs"] == 300


@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("layers", relu.LAYERS)
def test_ad_relu_beats_relu_in_every_row(name: str, layers: int) -> None:
    found, start = kept(relu), "default" if name == "A" else "He"
    rate = relu.RATES[name]
    plain, artificial = (found[name, start, layers, arm, rate] for arm in ("ReLU", "AD ReLU"))
    assert p_value(artificial.losses, plain.losses) < 1e-4
    # Another learning rate does not do as well.
    for other in relu.OTHER_RATES[name]:
        assert found[name, start, layers, "ReLU", other].mean > artificial.mean


@pytest.mark.parametrize(
    ("name", "layers"), [*(("A", each) for each in LAYERS["A"]), ("B", 4), ("B", 5), ("B", 6)]
)
def test_ad_sigmoid_beats_sigmoid(name: str, layers: int) -> None:
    found, rate = kept(sigmoid), sigmoid.RATES[name]
    plain, artificial = (
        found[name, "Xavier", layers, arm, rate] for arm in ("sigmoid", "AD sigmoid")
    )
    assert p_value(artificial.losses, plain.losses) < 1e-4


@pytest.mark.parametrize("name", ["A", "B"])
def test_ad_sigmoid_beats_sigmoid_at_each_rate(name: str) -> None:
    found = kept(sigmoid)
    for rate in sigmoid.OTHER_RATES[name, "Xavier"]:
        for layers in sigmoid.SWEPT[name]:
            plain, artificial = (
                found[name, "Xavier", layers, arm, rate] for arm in ("sigmoid", "AD sigmoid")
            )
            assert p_value(artificial.losses, plain.losses) < 1e-4, (rate, layers)


def test_a_rate_does_what_the_derivative_does_in_set_b() -> None:
    found = kept(sigmoid)
    for layers in (4, 5, 6, 7):
        plain = found["B", "Xavier", layers, "sigmoid", 0.3].mean
        artificial = found["B", "Xavier", layers, "AD sigmoid", 0.03].mean
        assert (plain < artificial) == (layers < 7)


@pytest.mark.parametrize("layers", relu.LAYERS)
def test_what_the_conversion_rule_does_in_set_a(layers: int) -> None:
    found = kept(relu)

    def cell(arm: str) -> Losses:
        return found["A", "default", layers, arm, relu.RATES["A"]]

    artificial = cell("AD ReLU")
    for arm in ("AD, to and fro", "AD, then ReLU"):
        assert median(cell(arm).losses) < median(artificial.losses) / 300
        assert abs(cell(arm).mean - artificial.mean) < standard_error(artificial.losses)
    assert cell("ReLU, to and fro").mean == pytest.approx(cell("ReLU").mean, rel=0.01)


@pytest.mark.slow
def test_a_cell_comes_out_again() -> None:
    rate = relu.RATES["B"]
    found = kept(relu)["B", "He", 2, "AD ReLU", rate]
    again = train(relu.task("B", 2, relu.ARMS["AD ReLU"], rate, 300), range(100)).tolist()
    # Sums are rounded otherwise on another machine, which can send single runs elsewhere.
    close = sum(
        math.isclose(one, other, rel_tol=0.05, abs_tol=1e-5)
        for one, other in zip(again, found.losses, strict=True)
    )
    assert close >= 95
    assert mean(again) == pytest.approx(found.mean, abs=2 * standard_error(found.losses))


@pytest.mark.slow
@pytest.mark.parametrize("module", [relu, sigmoid])
def test_it_runs_as_a_script(module: ModuleType, tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    sizes = ("--runs", "3", "--epochs", "1")
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(module.__file__), *sizes, "--json", str(written)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    run = read_run(written)
    assert len(run.results) == len(module.cells(1))
    for table in module.tables(run):
        assert table.title.partition(":")[0] in ran.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--runs", "0"), "0 is too few; give 1 or more"),
        (("--jobs", "-1"), "-1 is too few"),
        (("--json", "no/such/folder/run.json"), "there is no folder no/such/folder"),
        (("--json", "."), ". is a folder; give the name of a file"),
    ],
)
def test_options_that_cannot_be_meant(options: tuple[str, ...], said: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(relu.__file__), *options], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
