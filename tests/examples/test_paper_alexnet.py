"""The paper's CIFAR-100 experiment: its networks, matched trainings, and what it says of them."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.examples import paper_alexnet as paper
from gradscope.examples.experiments.results import Run, read_run, write_run
from gradscope.examples.fashion_mnist import SAMPLE

FILE = Path(paper.__file__)


@pytest.fixture(autouse=True)
def the_sample_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GRADSCOPE_DATA", str(SAMPLE))
    threads = torch.get_num_threads()
    yield
    paper.prepared.cache_clear()
    torch.set_num_threads(threads)


def script(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", FILE, "--device", "cpu", "--jobs", "1", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADSCOPE_DATA": str(SAMPLE), "OMP_NUM_THREADS": "1"},
    )


def schedule(epochs: int, images: int, lr_sgd: float = 0.05) -> paper.Schedule:
    return paper.Schedule(epochs, images, 1, lr_sgd, 1e-3, "cpu")


# --- The networks -----------------------------------------------------------------------------


@pytest.mark.parametrize(("figure", "count"), [(7, 2_495_396), (8, 2_495_396), (9, 7_488_292)])
def test_the_networks_have_the_papers_number_of_parameters(figure: int, count: int) -> None:
    model = paper.build_model(paper.FIGURES[figure].network, 100, nn.ReLU)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("figure", "convolutions"), [(7, 5), (9, 13)])
def test_an_activation_follows_each_convolution(figure: int, convolutions: int) -> None:
    model = paper.build_model(paper.FIGURES[figure].network, 10, nn.Sigmoid)
    kinds = [type(module) for module in model]
    after = [kinds[index + 1] for index, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert after == [nn.Sigmoid] * convolutions
    assert kinds.count(nn.Sigmoid) == convolutions
    assert kinds.count(nn.MaxPool2d) == 3
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [("he", math.sqrt(2 / 1600)), ("xavier", math.sqrt(2 / (1600 + 4800))), ("normal-0.3", 0.3)],
)
def test_weights_are_drawn_as_the_equations_say(scheme: str, deviation: float) -> None:
    convolution = paper.start(7, paper.RELUS[0], scheme, 0, 10)[3]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.shape == (192, 64, 5, 5)
    assert float(convolution.weight.detach().std()) == pytest.approx(deviation, rel=0.01)
    assert convolution.bias is not None
    assert not convolution.bias.any()


def test_the_default_initialisation_is_torchs() -> None:
    model = paper.start(7, paper.RELUS[0], "default", 5, 10)
    torch.manual_seed(5)
    mine = paper.build_model(paper.ALEXNET, 10, nn.ReLU)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), mine.parameters(), strict=True)
    )
    assert model[0].bias.any()


# --- The trainings ----------------------------------------------------------------------------


@pytest.mark.parametrize("arms", [paper.RELUS, paper.SIGMOIDS], ids=["relu", "sigmoid"])
def test_arms_start_alike_and_differ_in_the_backward_alone(arms: tuple[paper.Arm, ...]) -> None:
    # Of 300 images a batch of 200 is used: the first loss depends on the order, too.
    results = [paper.train(7, arm, "he", 0, schedule(2, 300)) for arm in arms]
    plain, artificial = (result["loss"] for result in results[:2])
    assert {result["loss"][0] for result in results} == {plain[0]}
    assert plain[1] != artificial[1]
    other = paper.train(7, arms[0], "he", 1, schedule(1, 300))
    assert other["loss"][0] != plain[0]


def test_the_order_of_batches_does_not_depend_on_the_initialisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.Tensor] = []

    class Noted(paper.Batches):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for images, labels in super().__iter__():
                seen.append(labels)
                yield images, labels

    monkeypatch.setattr(paper, "Batches", Noted)
    for scheme in ("he", "default"):
        paper.train(7, paper.RELUS[0], scheme, 3, schedule(1, 400))
    assert len(seen) == 4
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
    assert not torch.equal(seen[0], seen[1])


def test_alexnet_learns_within_ten_updates() -> None:
    result = paper.train(7, paper.RELUS[0], "he", 0, schedule(1, 2000))
    assert result["updates"] == 10
    assert result["accuracy"][-1] > 0.3


def test_a_training_that_diverges_ends_and_counts_as_failed() -> None:
    result = paper.train(7, paper.RELUS[0], "he", 0, schedule(3, 400, lr_sgd=1e20))
    assert result["diverged"]
    assert len(result["loss"]) == len(result["accuracy"]) == 1
    assert result["dead_start"] is not None
    assert result["dead_end"] is None
    settings = {"images": 400, "data": "the sample"}
    (table,) = paper.tables(Run("", settings, [result | {"accuracy": [0.9]}]))
    assert table.rows[0][-2:] == ["–", "0 of 1, 1 diverged"]


@pytest.mark.parametrize("arm", paper.RELUS, ids=lambda arm: arm.name)
def test_dead_units_are_counted(arm: paper.Arm) -> None:
    model = paper.start(7, arm, "he", 0, 10)
    images = torch.rand(8, 3, 32, 32)
    before = paper.dead_share(model, images)
    assert before is not None
    with torch.no_grad():
        model[0].bias[:16] = -1e6
        model[10].bias[:] = -1e6
    # 16 of the first 64 channels and all of the last 256, of 1,152.
    assert paper.dead_share(model, images) == pytest.approx((16 + 256) / 1152, abs=before + 1e-4)
    assert paper.dead_share(paper.start(8, paper.SIGMOIDS[1], "he", 0, 10), images) is None


def test_images_are_padded_and_normalised() -> None:
    data = paper.prepared(None, 600, "cpu")
    assert (data.name, data.classes) == ("shipped sample", 10)
    assert data.train_images.shape == (600, 3, 32, 32)
    assert data.test_images.shape == (100, 3, 32, 32)
    assert float(data.train_images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train_images.std()) == pytest.approx(1, abs=1e-3)
    border = data.train_images[:, :, :2]
    assert bool((border == border[0, 0, 0, 0]).all())
    assert bool((data.train_images[:, 0] == data.train_images[:, 2]).all())
    assert len(set(data.train_labels.tolist())) == 10
    assert len(paper.prepared(None, 0, "cpu").train_images) == 6000


# --- The tables -------------------------------------------------------------------------------


def entry(arm: str, seed: int, accuracy: list[float], **changes: Any) -> dict[str, Any]:
    return {
        "figure": 9,
        "network": "extended AlexNet",
        "arm": arm,
        "initialisation": "he",
        "seed": seed,
        "data": "CIFAR-100",
        "classes": 100,
        "epochs": 2,
        "updates": 1500,
        "accuracy": accuracy,
        "loss": [math.nan, 1.0],
        "diverged": False,
        "dead_start": 0.25,
        "dead_end": 0.75,
        "seconds": 1.0,
    } | changes


SETTINGS = {"images": 50000, "data": "CIFAR-100"}
FAILED = [entry("ReLU", 0, [0.01, 0.01]), entry("ReLU", 1, [0.3, 0.03])]
TRAINED = [entry("AD ReLU", 0, [0.1, 0.2]), entry("AD ReLU", 1, [0.5, 0.4])]


def test_the_table_is_made_of_what_was_kept(tmp_path: Path) -> None:
    write_run(tmp_path / "run.json", Run("", SETTINGS, FAILED + TRAINED))
    (table,) = paper.tables(read_run(tmp_path / "run.json"))
    assert table.title == (
        "Figure 9: extended AlexNet, 50,000 images of CIFAR-100, 2 epochs (1,500 updates), 2 seeds"
    )
    assert list(table.rows) == [
        ["ReLU, he", "2.0% ± 1.0%", "15.5%", "25.0%", "75.0%", "0 of 2"],
        ["AD ReLU, he", "30.0% ± 10.0%", "35.0%", "25.0%", "75.0%", "2 of 2"],
    ]
    assert "5 points above chance, which is 1%" in table.note
    assert table.markdown()


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (
            FAILED + TRAINED,
            "Initialisation he: ReLU trained 0 of 2 times and AD ReLU 2 of 2",
        ),
        (FAILED + TRAINED, "within 2 epochs (1,500 updates). That ReLU fails"),
        (FAILED + TRAINED, "300 epochs on CIFAR-100, is seen."),
        ([*FAILED, TRAINED[0], entry("AD ReLU", 1, [0.4, 0.06])], "is not seen"),
        ([FAILED[0], entry("ReLU", 1, [0.0, 0.2]), *TRAINED], "is not seen"),
        ([*FAILED, entry("AD ReLU", 0, [0.01, 0.01])], "AD ReLU 0 of 1 within"),
        ([*FAILED, entry("AD ReLU", 0, [0.01, 0.01])], "is not seen"),
        ([*TRAINED, entry("ReLU", 0, [0.9], diverged=True)], "is seen"),
    ],
)
def test_whether_the_papers_claim_holds_is_said(results: list[dict[str, Any]], words: str) -> None:
    (table,) = paper.tables(Run("", SETTINGS, results))
    assert words in table.note


def test_the_claim_is_judged_for_each_initialisation() -> None:
    default = [each | {"initialisation": "default"} for each in (TRAINED[0], TRAINED[1])]
    default += [entry("ReLU", seed, [0.2, 0.2], initialisation="default") for seed in (0, 1)]
    seven = [entry(arm, 0, [0.3], figure=7, network="AlexNet") for arm in ("ReLU", "AD ReLU")]
    first, second = paper.tables(Run("", SETTINGS, seven + FAILED + TRAINED + default))
    assert "trains" not in first.note
    he, default_note = second.note.split("Initialisation")[1:]
    assert he.startswith(" he:")
    assert "is seen." in he
    assert default_note.startswith(" default:")
    assert "is not seen." in default_note
    assert [row[0] for row in second.rows] == [
        *("ReLU, he", "AD ReLU, he", "AD ReLU, default", "ReLU, default")
    ]


# --- The script -------------------------------------------------------------------------------


def test_the_tables_are_printed_and_written(tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    options = ("--figures", "8", "--images", "200", "--epochs", "2", "--seeds", "1")
    ran = script(*options, "--json", written)
    assert ran.returncode == 0, ran.stderr
    kept = read_run(written)
    assert kept.settings == {
        "epochs": 2,
        "images": 200,
        "test_images": 33,
        "seeds": 1,
        "batch_size": 200,
        "lr_sgd": 0.05,
        "lr_adam": 0.001,
        "data": "shipped sample",
        "device": "cpu",
    }
    assert [(each["figure"], each["arm"], each["initialisation"]) for each in kept.results] == [
        (8, "sigmoid", "xavier"),
        (8, "AD sigmoid", "xavier"),
    ]
    for result in kept.results:
        assert len(result["accuracy"]) == len(result["loss"]) == 2
        assert result["updates"] == 2
        assert math.isnan(result["dead_start"])
        assert math.isnan(result["dead_end"])
    for table in paper.tables(kept):
        for row in table.rows:
            assert row[0] in ran.stdout
            assert row[1] in ran.stdout


def test_cifar100_is_trained_on_and_its_folder_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for name, count in {"train": 250, "test": 50}.items():
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"fine_labels": [each % 100 for each in range(count)]}
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    written = tmp_path / "run.json"
    options = ["--figures", "7", "--epochs", "1", "--images", "0", "--jobs", "1"]
    options += ["--initialisation", "he,normal-0.05", "--device", "cpu"]
    options += ["--cifar100", str(tmp_path), "--json", str(written)]
    monkeypatch.setattr(sys, "argv", ["paper_alexnet.py", *options])
    paper.main()
    kept = json.loads(written.read_text())
    assert (kept["settings"]["data"], kept["settings"]["images"]) == ("CIFAR-100", 250)
    assert {each["classes"] for each in kept["results"]} == {100}
    assert [(each["initialisation"], each["arm"]) for each in kept["results"]] == [
        (scheme, arm.name) for scheme in ("he", "normal-0.05") for arm in paper.RELUS
    ]
    assert all(0 <= each["dead_start"] <= 1 for each in kept["results"])
    assert kept["command"].endswith("--cifar100 FOLDER")
    assert str(tmp_path) not in written.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--figures", "7,10"), "there is no '10'"),
        (("--initialisation", "he,normal-"), "there is no 'normal-'"),
        (("--images", "199"), "--images is 199, but must be at least 200"),
        (("--epochs", "0"), "0 is too few; give 1 or more"),
        (("--cifar100", "nowhere"), "Cannot read nowhere/train: No such file or directory."),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["paper_alexnet.py", *options])
    with pytest.raises(SystemExit) as caught:
        paper.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_full_schedule_is_table_5s() -> None:
    assert paper.FULL == {"epochs": 300, "images": 0, "seeds": 5}
    assert paper.BATCH_SIZE == 200
