"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
(SETTINGS,) = re.findall(r"```toml\n(\[tool\.gradscope\].*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^    (gradscope .*?)(?: +#.*)?$", README, flags=re.MULTILINE)


# What a reader has: a training of that model, which saves as trainings do.
TRAINING = """
import os, torch
from my_model import build_data, build_model, build_optimizer, loss

torch.manual_seed(0)
model = build_model()
optimizer = build_optimizer(model.parameters())
os.makedirs("checkpoints", exist_ok=True)
for epoch in range(3):
    for batch in build_data():
        optimizer.zero_grad()
        loss(model(batch[0]), batch).backward()
        optimizer.step()
    steps = 100 * (epoch + 1)
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": steps}
    torch.save(kept, f"checkpoints/step_{steps}.pt")
torch.save(kept, "checkpoint.pt")
print("trained")
"""


# Another one: a model alone.
NET = """
from torch import nn


class MyNet(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader has written the subject file of the README."""
    folder = tmp_path_factory.mktemp("readme")
    (subject,) = [block for block in BLOCKS if block.startswith("# my_model.py")]
    (folder / "my_model.py").write_text(subject, encoding="utf-8")
    (folder / "train.py").write_text(TRAINING, encoding="utf-8")
    (folder / "my_net.py").write_text(NET, encoding="utf-8")
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=300)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradscope.cli", *command.split()[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_there_are_commands_and_code() -> None:
    assert len(COMMANDS) >= 5
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme(command: str, folder: Path) -> None:
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    if "--output" in command:
        assert (folder / command.split("--output ")[1].split()[0]).stat().st_size > 0
    else:
        assert done.stdout.strip()


def test_the_settings_of_the_readme(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(SETTINGS, encoding="utf-8")
    done = run(f"gradscope scan {folder / 'my_model.py'}", tmp_path)
    assert done.returncode == 0, done.stderr
    page = run("gradscope rule dead-relu", tmp_path).stdout
    assert "pyproject.toml; default" in page
    assert "does not look at decoder.*" in page


def test_the_python_of_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, in its order; it applies the plan that a command before it has written."""
    run(next(command for command in COMMANDS if "--out repaired" in command), folder)
    monkeypatch.chdir(folder)
    api, monitored, by_hand = [each for each in BLOCKS if not each.startswith("# my_model.py")]
    names: dict[str, object] = {}
    exec((folder / "my_model.py").read_text(encoding="utf-8"), names)
    names["model"] = names["build_model"]()  # type: ignore[operator]
    names["batches"] = names["build_data"]()  # type: ignore[operator]
    exec(api, names)
    assert names["report"].verdict.status == "nothing-to-fix"  # type: ignore[attr-defined]
    (folder / "run.gradscope").unlink(missing_ok=True)
    names["optimizer"] = names["build_optimizer"](names["model"].parameters())  # type: ignore
    exec(monitored, names)
    assert names["monitor"].alerts == ()  # type: ignore[attr-defined]
    names["model"] = names["build_model"]()  # type: ignore[operator]
    exec(by_hand, names)
