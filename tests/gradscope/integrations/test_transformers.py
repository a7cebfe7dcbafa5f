"""The callback for the Hugging Face Trainer in short trainings with the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradscope.store import open_run

# Seen with the newest accelerate and transformers on a machine without an accelerator.
pytestmark = [pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")]

BATCHES = 8


class Tokens(torch.utils.data.Dataset[Any]):
    """Two to a batch."""

    def __init__(self, batches: int = BATCHES) -> None:
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.randint(1, 90, (batches * 2, 12), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def trainer(folder: Path, callbacks: list[Any], fails_at: int = -1, **options: Any) -> Any:
    """A Trainer that keeps the losses it minimised in ``minimised``."""
    from transformers import Trainer, TrainingArguments

    from tests.gradscope.tiny_transformers import GPT2, build

    class Keeping(Trainer):  # type: ignore[misc]
        minimised: list[float]

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            if len(self.minimised) == fails_at:
                raise options_failure("on purpose")
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            self.minimised.append(loss.item())
            return loss

    options_failure = options.pop("failure", ValueError)
    torch.manual_seed(0)
    model = build("GPT2LMHeadModel", GPT2)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **{"num_train_epochs": 1, "logging_strategy": "no", "save_strategy": "no", **options},
    )
    made = Keeping(
        model, arguments, train_dataset=Tokens(), eval_dataset=Tokens(2), callbacks=callbacks
    )
    made.minimised = []
    return made


def callback(samples: list[Any], **options: Any) -> Any:
    from gradscope.integrations.transformers import MonitorCallback

    return MonitorCallback(every=1, overhead=None, on_sample=samples.append, **options)


def test_one_step_for_each_update_and_weights_as_without(tmp_path: Path) -> None:
    options = {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 4,
        "max_grad_norm": 0.1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        "logging_strategy": "steps",
        "logging_steps": 1,
    }
    samples: list[Any] = []
    watcher = callback(samples)
    watched = trainer(tmp_path, [watcher], **options)
    watched.train()
    alone = trainer(tmp_path, [], **options)
    alone.train()
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, alone.model.state_dict()[name])
    assert "training_step" not in vars(watched)

    assert watcher.monitor.steps == watched.state.global_step == 4
    assert watcher.monitor.path == tmp_path / "run.gradscope"
    with open_run(watcher.monitor.path) as run:
        steps, losses = run.losses()
        assert run.ended == ""
        assert [event.kind for event in run.events].count("epoch") == 2
        assert "transformer.h.0.mlp.act" in [site.name for site in run.layout.sites]
        measured = {name: run.step_measure(name)[1] for name in ("gradient_norm", "used_norm")}
    assert steps.tolist() == list(range(4))
    assert [sample.step for sample in samples][-3:] == [1, 2, 3]
    np.testing.assert_allclose(losses, np.reshape(watched.minimised, (4, 4)).sum(1), rtol=1e-6)
    logged = [entry["grad_norm"] for entry in watched.state.log_history if "grad_norm" in entry]
    np.testing.assert_allclose(measured["gradient_norm"][-3:], logged[-3:], rtol=1e-4)
    np.testing.assert_allclose(measured["used_norm"], 0.1, rtol=1e-3)


def test_the_loss_scale_is_undone(tmp_path: Path) -> None:
    def run_with(scale: float | None, watchers: list[Any]) -> Any:
        made = trainer(tmp_path, watchers, max_grad_norm=0.0)
        if scale is not None:  # fp16, which asks for a GPU, makes one
            made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        made.train()
        return made.model.state_dict()

    scaled: list[Any] = []
    plain: list[Any] = []
    watched, alone = run_with(1024.0, [callback(scaled)]), run_with(1024.0, [])
    run_with(None, [callback(plain)])
    for name, value in watched.items():
        assert torch.equal(value, alone[name])
    assert len(scaled) == len(plain) >= BATCHES - 1
    for one, other in zip(scaled, plain, strict=True):
        # Before clipping accelerate unscales only what fp16 has scaled: not in this test.
        rows = (np.delete(sample.row, 1) for sample in (one, other))
        np.testing.assert_allclose(*rows, rtol=1e-3)


def test_a_resumed_training_goes_on_in_its_store(tmp_path: Path) -> None:
    first, second = callback([]), callback([])
    saving = {"save_strategy": "steps", "save_steps": 3}
    trainer(tmp_path, [first], **saving).train()
    resumed = trainer(tmp_path, [second], num_train_epochs=2, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert second.monitor.path == first.monitor.path
    with open_run(second.monitor.path) as run:
        steps, losses = run.losses()
    assert steps.tolist() == list(range(2 * BATCHES))
    np.testing.assert_allclose(losses[3:], resumed.minimised, rtol=1e-6)

    # One that begins anew leaves it as it is.
    third = callback([])
    trainer(tmp_path, [third], max_steps=1).train()
    assert third.monitor.path == tmp_path / "run-2.gradscope"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_what_ends_a_training_closes_the_store(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    watcher = callback([])
    with pytest.raises(failure):
        trainer(tmp_path, [watcher], fails_at=5, failure=failure).train()
    with open_run(watcher.monitor.path) as run:
        assert run.ended == failure.__name__
        assert run.last_step == 4


def test_as_a_context_manager_it_sees_any_failure(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Failing(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise OSError("on purpose")

    with pytest.raises(OSError, match="on purpose"), callback([]) as watcher:
        trainer(tmp_path, [watcher, Failing()]).train()
    with open_run(watcher.monitor.path) as run:
        assert run.ended == "OSError"


def test_without_a_trainer_above_there_is_no_loss(tmp_path: Path) -> None:
    """Called by something else than a Trainer, the callback watches all but the loss."""
    from types import SimpleNamespace

    samples: list[Any] = []
    watcher = callback(samples, store=None)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = SimpleNamespace(global_step=0)
    arguments = SimpleNamespace(output_dir=str(tmp_path))
    watcher.on_train_begin(arguments, state, None, model=model, optimizer=optimizer)
    for _ in range(2):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        watcher.on_step_end(arguments, state, None)
    watcher.on_train_end(arguments, state, None)
    assert samples[-1].step == 1
    assert np.isnan(samples[-1].losses).all()
    assert list(tmp_path.iterdir()) == []
