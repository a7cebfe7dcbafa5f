"""docs/reference/api.md: where the docstrings of the public API are shown.

Named are the modules that define things: there is a module ``gradscope.profile`` as well as a
function, and what reads the sources without running them finds the module.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import gradscope
from pages.parts import DOCS

SECTIONS = {
    "Find, repair, prove": (
        "Subject",
        "load_subject",
        "scan",
        "fix",
        "profile",
        "diagnose",
        "prescribe",
        "apply",
        "Patch",
        "verify",
    ),
    "Artificial derivatives": (
        "replace_derivative",
        "bias",
        "Bias",
        "Annealing",
        "Conversion",
    ),
    "While it trains": ("Monitor", "open_run"),
    "What comes back": ("Profile", "Finding", "Findings", "Plan", "Report", "Verdict"),
    "Files and settings": ("load_plan", "load_report", "Settings", "find_settings"),
    "Errors": ("GradscopeError",),
}
# Not imported: each needs a package that may not be installed.
INTEGRATIONS = {
    "Trainers": (
        "lightning.MonitorCallback",
        "transformers.MonitorCallback",
        "accelerate.AcceleratedMonitor",
    ),
    "Dashboards and files": (
        "tensorboard.TensorBoard",
        "wandb.WandB",
        "mlflow.MLflow",
        "jsonl.JSONL",
    ),
}


def pages() -> Iterator[tuple[Path, str]]:
    listed = sorted(name for names in SECTIONS.values() for name in names)
    missing = set(gradscope.__all__) ^ set(listed)
    assert not missing, f"docs/pages/api.py places {sorted(missing)} where the API does not"
    yield (
        DOCS / "reference" / "api.md",
        "# Python API\n\n"
        "`import gradscope` brings all of this, and imports torch when something is first used.\n"
        + "".join(
            f"\n## {title}\n" + "".join(shown(f"gradscope.{name}", home(name)) for name in names)
            for title, names in SECTIONS.items()
        ),
    )
    yield (
        DOCS / "reference" / "integrations.md",
        "# Integrations\n\n"
        "The monitor in other people's trainers, and its numbers in other people's dashboards.\n"
        "Each file imports its package when it is used, and says which extra of gradscope brings\n"
        "it where it is missing.\n"
        + "".join(
            f"\n## {title}\n"
            + "".join(
                shown(f"gradscope.integrations.{name}", f"gradscope.integrations.{name}")
                for name in names
            )
            for title, names in INTEGRATIONS.items()
        ),
    )


def home(name: str) -> str:
    """The module that defines it, and its name."""
    found = getattr(gradscope, name)
    return f"{inspect.getmodule(found).__name__}.{found.__name__}"  # type: ignore[union-attr]


def shown(name: str, path: str) -> str:
    heading = name.removeprefix("gradscope.integrations.")
    return f"\n::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading}\n"
