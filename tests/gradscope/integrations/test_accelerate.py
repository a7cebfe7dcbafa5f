"""The monitor for accelerate in short trainings with the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradscope.store import open_run

BATCHES = 10


def train(
    folder: Path,
    *,
    samples: list[Any] | None = None,
    watched: bool = True,
    epochs: int = 1,
    at: Callable[[Any, int], None] = lambda accelerator, batch: None,
    load: Path | None = None,
    scale: float | None = None,
    clip: float | None = 0.5,
) -> tuple[nn.Module, list[float], Any]:
    """The trained model, the losses of its batches, and its monitor."""
    from accelerate import Accelerator

    from gradscope.integrations.accelerate import AcceleratedMonitor

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, project_dir=str(folder))
    if scale is not None:  # fp16, which asks for a GPU, makes one
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    model: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    values = torch.randn(BATCHES * 4, 6)
    loader: Any = DataLoader(TensorDataset(values, values.sum(1, keepdim=True)), batch_size=4)
    optimizer: Any = torch.optim.Adam(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    monitor = None
    if watched:
        on_sample = [] if samples is None else [samples.append]
        monitor = AcceleratedMonitor(
            accelerator, model, optimizer, every=1, overhead=None, on_sample=on_sample
        )
    losses = []
    try:
        if load is not None:
            accelerator.load_state(str(load))
        for _ in range(epochs):
            for batch, (inputs, targets) in enumerate(loader):
                with accelerator.accumulate(model):
                    loss = nn.functional.mse_loss(model(inputs), targets)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad()
                    losses.append(loss.item())
                    if monitor is not None:
                        monitor.step(loss)
                at(accelerator, batch)
            if monitor is not None:
                monitor.epoch()
    except BaseException as error:
        if monitor is not None:
            monitor.__exit__(type(error), error, None)
        raise
    if monitor is not None:
        monitor.close()
    return model, losses, monitor


def test_one_step_for_each_update_and_weights_as_without(tmp_path: Path) -> None:
    samples: list[Any] = []
    watched, losses, monitor = train(tmp_path, samples=samples, epochs=2)
    alone, _, _ = train(tmp_path, watched=False, epochs=2)
    for name, value in watched.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])
    assert monitor.monitor.path == tmp_path / "run.gradscope"
    with open_run(monitor.monitor.path) as run:
        steps, kept = run.losses()
        assert run.ended == ""
        assert [event.kind for event in run.events].count("epoch") == 2
        measured = {name: run.step_measure(name)[1] for name in ("gradient_norm", "used_norm")}
    assert steps.tolist() == list(range(BATCHES))
    assert [sample.step for sample in samples][-3:] == [BATCHES - 3, BATCHES - 2, BATCHES - 1]
    np.testing.assert_allclose(kept, np.reshape(losses, (BATCHES, 2)).mean(1), rtol=1e-6)
    expected = np.minimum(measured["gradient_norm"], 0.5)
    np.testing.assert_allclose(measured["used_norm"], expected, rtol=1e-3)
    assert (measured["gradient_norm"] > 0.6).any()


def test_the_loss_scale_is_undone(tmp_path: Path) -> None:
    scaled: list[Any] = []
    plain: list[Any] = []
    # Without clipping: accelerate unscales before it, but only what fp16 has scaled.
    watched, _, _ = train(tmp_path, samples=scaled, scale=1024.0, clip=None)
    alone, _, _ = train(tmp_path, watched=False, scale=1024.0, clip=None)
    train(tmp_path, samples=plain, clip=None)
    for name, value in watched.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])
    assert len(scaled) == len(plain) >= BATCHES // 2 - 1
    for one, other in zip(scaled, plain, strict=True):
        np.testing.assert_allclose(one.row, other.row, rtol=1e-4)


def test_a_loaded_state_goes_on_in_its_store(tmp_path: Path) -> None:
    def save(accelerator: Any, batch: int) -> None:
        if batch == 5:
            accelerator.save_state(str(tmp_path / "saved"))

    train(tmp_path, at=save)
    _, losses, monitor = train(tmp_path, load=tmp_path / "saved", epochs=2)
    assert monitor.monitor.steps == 3 + BATCHES
    with open_run(tmp_path / "run.gradscope") as run:
        steps, kept = run.losses()
    assert steps.tolist() == list(range(3 + BATCHES))
    np.testing.assert_allclose(kept[3:], np.reshape(losses, (BATCHES, 2)).mean(1), rtol=1e-6)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_ends_a_training_closes_the_store(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def fail(_: Any, batch: int) -> None:
        if batch == 3:
            raise failure

    with pytest.raises(failure):
        train(tmp_path, at=fail)
    with open_run(tmp_path / "run.gradscope") as run:
        assert run.ended == failure.__name__
        assert run.last_step == 1
