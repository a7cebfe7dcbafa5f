"""Which checkpoints a folder holds, in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradscope.checkpoints import checkpoints_in, name_order, named_step, open_checkpoint


@pytest.mark.parametrize(
    "names",
    [
        ["best.pt", "step_100.pt", "step_1000.pt", "last.pt"],
        ["model_best.pth", "epoch9.pth", "epoch10.pth", "model.pth", "model_final.pth"],
        ["epoch=3-step=90.ckpt", "epoch=3-step=120.ckpt", "last.ckpt"],
        ["checkpoint-500", "checkpoint-1000", "checkpoint-10000"],
        ["init.pt", "model_0000.pt", "model_0100.pt"],
        ["ema.pt", "global_step7", "global_step11"],
    ],
)
def test_names_say_the_order_of_training(names: list[str]) -> None:
    assert sorted(map(Path, reversed(names)), key=name_order) == list(map(Path, names))


def test_names_say_steps_where_they_say_so() -> None:
    assert named_step(Path("epoch=3-step=90.ckpt")) == 90
    assert named_step(Path("step_1000.safetensors")) == 1000
    assert named_step(Path("epoch_3.pt")) is None


def saved(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.ones(2, 2)}, path)
    return path


def test_folders_of_lightning(tmp_path: Path) -> None:
    kept = tmp_path / "version_0" / "checkpoints"
    files = [saved(kept / f"epoch={at}-step={at * 9}.ckpt") for at in range(3)]
    assert checkpoints_in(tmp_path / "version_0") == files
    for file in files[1:]:
        file.unlink()
    assert open_checkpoint(tmp_path / "version_0").weights.keys() == {"weight"}


def test_a_model_at_the_top_is_the_folder_and_those_below_are_a_run(tmp_path: Path) -> None:
    """As transformers' Trainer leaves its output_dir, after training and before its end."""
    folders = [tmp_path / f"checkpoint-{step}" for step in (500, 1000)]
    for folder in folders:
        saved(folder / "pytorch_model.bin")
        (folder / "config.json").write_text("{}")
    assert checkpoints_in(tmp_path) == folders
    saved(tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert checkpoints_in(tmp_path) == [tmp_path]


def test_a_damaged_file_is_not_passed_over(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"step_{at}.pt") for at in (1, 2)]
    files[0].write_bytes(files[0].read_bytes()[:100])
    saved(tmp_path / "optimizer.pt")
    (tmp_path / "._step_1.pt").write_bytes(b"of another system")
    assert checkpoints_in(tmp_path) == files


def test_the_only_checkpoint_of_a_folder_is_meant(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-500" / "pytorch_model.bin")
    (tmp_path / "log.txt").write_text("text")
    assert open_checkpoint(tmp_path).weights.keys() == {"weight"}
