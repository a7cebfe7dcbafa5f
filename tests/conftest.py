"""What holds for every test: where it may run, and that nothing is left out unseen.

``gpu`` tests are left out where there is no CUDA device. A test that lacks something else skips,
except with ``GRADSCOPE_NO_SKIP=1``, which continuous integration sets: then a skip is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

# Before anything imports torch, here and in what tests start: models this small gain nothing from
# threads, and threads that share the cores with other tests mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A time limit per example fails by chance on a shared machine. Failing examples are found again
# because the search is seeded, not because of a database on one machine.
hypothesis.settings.register_profile("gradscope", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("gradscope")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if item not in on_gpu]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_instead_of_skipping(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_instead_of_skipping(report)
    return report


def _fail_instead_of_skipping(report: Any) -> None:
    if report.skipped and os.environ.get("GRADSCOPE_NO_SKIP") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nGRADSCOPE_NO_SKIP=1: no test may be skipped here."
