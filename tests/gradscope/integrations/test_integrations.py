"""Nothing is imported before it is used, and what is missing is named."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradscope.errors import UsageError
from gradscope.integrations.driver import place

PACKAGES = (
    "accelerate",
    "lightning",
    "mlflow",
    "pytorch_lightning",
    "tensorboard",
    "transformers",
    "wandb",
)


def test_importing_the_integrations_imports_none_of_their_packages() -> None:
    code = (
        "import sys, gradscope.integrations\n"
        "import gradscope.integrations.accelerate, gradscope.integrations.jsonl\n"
        "import gradscope.integrations.mlflow, gradscope.integrations.tensorboard\n"
        "import gradscope.integrations.wandb\n"
        f"sys.exit(repr({PACKAGES!r} & sys.modules.keys() or ''))"
    ).replace(repr(PACKAGES), repr(set(PACKAGES)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "''"


def _use(module: Any, name: str) -> None:
    if name == "TensorBoard":
        module.TensorBoard("folder")
    elif name == "AcceleratedMonitor":
        module.AcceleratedMonitor(None, None, None)
    else:
        getattr(module, name)()


@pytest.mark.parametrize(
    ("extra", "missing", "name"),
    [
        ("lightning", "pytorch_lightning", "MonitorCallback"),
        ("transformers", "accelerate", "MonitorCallback"),
        ("transformers", "transformers", "MonitorCallback"),
        ("accelerate", "accelerate", "AcceleratedMonitor"),
        ("tensorboard", "tensorboard", "TensorBoard"),
        ("wandb", "wandb", "WandB"),
        ("mlflow", "mlflow", "MLflow"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, extra: str, missing: str, name: str
) -> None:
    module = f"gradscope.integrations.{extra}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError) as told:
        _use(importlib.import_module(module), name)
    assert f"needs {missing}" in str(told.value)
    assert f"pip install 'torch-gradscope[{extra}]'" in str(told.value)
    sys.modules.pop(module, None)


def test_where_a_store_stands(tmp_path: Path) -> None:
    assert place("run.gradscope", tmp_path) == tmp_path / "run.gradscope"
    assert place("logs/run.gradscope", tmp_path) == Path("logs/run.gradscope")
    assert place("run.gradscope", "s3://bucket/logs") == Path("run.gradscope")
    assert place("run.gradscope", None) == Path("run.gradscope")
