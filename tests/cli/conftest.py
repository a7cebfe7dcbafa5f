"""The command line called in this process, and small subject files to call it with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gradscope.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"

SUBJECT = """
import torch
from torch import nn

def build_model():
    return {model}

def build_data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 64, 4, generator=generator)
    return [(x, x[:, :3].argmax(dim=1)) for x in inputs]

def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])
"""

HEALTHY = "nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))"
SICK = (
    "nn.Sequential(*[m for i in range(6) for m in (nn.Linear(8 if i else 4, 8), nn.Sigmoid())],"
    " nn.Linear(8, 3))"
)


@dataclass(frozen=True)
class Run:
    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What stderr says beside progress: one sentence where something is wrong."""
        lines = [line for line in self.err.splitlines() if not line.endswith("%)")]
        return "\n".join(lines)


Command = Callable[..., Run]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSCOPE_DATA", str(EXAMPLES / "data" / "fashion-mnist"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def gradscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["gradscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Run(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a subject file; ``changes`` replace parts of its text."""

    def written(name: str = "subject.py", model: str = HEALTHY, **changes: str) -> Path:
        text = SUBJECT.format(model=model)
        for function, body in changes.items():
            head, _, rest = text.partition(f"def {function}(")
            signature, _, after = rest.partition(":\n")
            following = after.find("\ndef ")
            tail = after[following:] if following >= 0 else "\n"
            text = f"{head}def {function}({signature}:\n    {body}\n{tail}" if body else head + tail
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


@pytest.fixture
def healthy(write: Callable[..., Path]) -> Path:
    return write("healthy.py")


@pytest.fixture
def sick(write: Callable[..., Path]) -> Path:
    return write("sick.py", SICK)


@pytest.fixture
def examples() -> Path:
    return EXAMPLES
