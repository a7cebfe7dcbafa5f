"""The callback for Lightning in short trainings with the real Trainer."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gradscope.store import open_run

# What Lightning itself does with torch, and its advice on loaders as small as these.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module")
def training() -> ModuleType:
    from tests.gradscope.integrations import lightning_training

    return lightning_training


def callback(samples: list[Any], **options: Any) -> Any:
    from gradscope.integrations.lightning import MonitorCallback

    return MonitorCallback(every=1, overhead=None, on_sample=samples.append, **options)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


def test_one_step_for_each_update_and_weights_as_without(
    training: ModuleType, tmp_path: Path
) -> None:
    options = {
        "max_epochs": 2,
        "accumulate_grad_batches": 3,
        "gradient_clip_val": 0.05,
        "val_check_interval": 5,
    }
    samples: list[Any] = []
    watched, alone = training.Regression(), training.Regression()
    watcher = callback(samples)
    trainer = training.fit(watched, [watcher], tmp_path, **options)
    training.fit(alone, [], tmp_path, **options)

    assert same_weights(watched, alone)
    assert watcher.monitor.path == tmp_path / "run.gradscope"
    assert watcher.monitor.steps == trainer.global_step == 8
    with open_run(watcher.monitor.path) as run:
        steps, losses = run.losses()
        assert run.ended == ""
        assert [event.kind for event in run.events].count("epoch") == 2
        assert [site.name for site in run.layout.sites] == ["body.0", "body.1", "body.3"]
        measured = {name: run.step_measure(name)[1] for name in ("gradient_norm", "used_norm")}
        backward = run.site("backward_rms")[1]
    assert steps.tolist() == list(range(8))
    assert [sample.step for sample in samples][-7:] == list(range(1, 8))
    expected = np.reshape(watched.losses, (8, 3)).mean(1)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert np.isfinite(backward).all()
    # Both are of all three batches, one before and one after clipping.
    np.testing.assert_allclose(measured["used_norm"], 0.05, rtol=1e-3)
    assert (measured["gradient_norm"] > 0.06).all()


def test_the_loss_scale_is_undone(training: ModuleType, tmp_path: Path) -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    def run_with(scale: float, watchers: list[Any]) -> Any:
        model = training.Regression()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        training.fit(model, watchers, tmp_path, plugins=[precision])
        return model

    scaled: list[Any] = []
    unscaled: list[Any] = []
    watched = run_with(1024.0, [callback(scaled)])
    assert same_weights(watched, run_with(1024.0, []))
    run_with(1.0, [callback(unscaled)])
    assert len(scaled) >= training.BATCHES - 1
    given = np.concatenate([sample.losses for sample in scaled])
    np.testing.assert_allclose(given, watched.losses, rtol=1e-6)
    for one, other in zip(scaled, unscaled, strict=True):
        for column in (1, one.layout.site_column(0, "backward_rms")):
            np.testing.assert_allclose(one.row[column], other.row[column], rtol=0.05)


def test_several_optimizers_make_one_step(training: ModuleType, tmp_path: Path) -> None:
    samples: list[Any] = []
    watched, alone = training.Adversaries(), training.Adversaries()
    watcher = callback(samples)
    trainer = training.fit(watched, [watcher], tmp_path)
    training.fit(alone, [], tmp_path)
    assert same_weights(watched, alone)
    assert trainer.global_step == 12  # two for each
    assert watcher.monitor.steps == 6
    given = np.concatenate([sample.losses for sample in samples])
    np.testing.assert_allclose(given, np.reshape(watched.losses, (6, 2)).sum(1), rtol=1e-5)
    parameters = [parameter.name for parameter in samples[-1].layout.parameters]
    assert {"generator.0.weight", "critic.0.weight"} <= set(parameters)
    column = samples[-1].layout.parameter_column
    for name in ("generator.0.weight", "critic.0.weight"):
        assert samples[-1].row[column(parameters.index(name), "update_norm")] > 0


def test_a_resumed_training_goes_on_in_its_store(training: ModuleType, tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint

    def keeper() -> Any:
        return ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)

    first, second = callback([]), callback([])
    options = {"enable_checkpointing": True}
    training.fit(training.Regression(), [first, keeper()], tmp_path, **options)
    checkpoint = tmp_path / "step=7.ckpt"
    resumed = training.Regression()
    training.fit(resumed, [second, keeper()], tmp_path, checkpoint, max_epochs=2, **options)
    assert first.monitor.path == second.monitor.path
    with open_run(second.monitor.path) as run:
        steps, losses = run.losses()
    assert steps.tolist() == list(range(2 * training.BATCHES))
    np.testing.assert_allclose(losses[7:], resumed.losses, rtol=1e-6)

    # One that begins anew leaves it as it is.
    third = callback([])
    training.fit(training.Regression(), [third], tmp_path)
    assert third.monitor.path == tmp_path / "run-2.gradscope"
    with open_run(second.monitor.path) as run:
        assert run.last_step == 2 * training.BATCHES - 1


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_ends_a_training_closes_the_store(
    training: ModuleType, tmp_path: Path, failure: type[BaseException]
) -> None:
    watcher = callback([])
    before = signal.getsignal(signal.SIGINT)
    # Lightning makes an interrupt by hand an exit of the process, deaf to any further one.
    with pytest.raises(SystemExit if failure is KeyboardInterrupt else failure):
        training.fit(training.Regression(5, failure), [watcher], tmp_path)
    signal.signal(signal.SIGINT, before)
    with open_run(watcher.monitor.path) as run:
        assert run.ended == failure.__name__
        assert run.last_step == 4
