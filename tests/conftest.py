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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have measured: how far several ways to a number lie apart.

    It stands here because under pytest-xdist the process that prints loads no other conftest.
    """
    told: dict[str, list[Any]] = {"measured": [], "zoo": []}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name in told and report.when == "call":
                    told[name].append(value)
    if not any(told.values()):
        return
    terminalreporter.section("measured")
    for line in sorted(told["measured"]):
        terminalreporter.write_line(line)
    if zoo := told["zoo"]:
        sites, compared = (sum(row[column] for row in zoo) for column in (1, 2))
        name, _, _, largest, where = max(zoo, key=lambda row: row[3])
        terminalreporter.write_line(
            f"zoo: {len(zoo)} families, {sites} sites, {compared} statistics compared; "
            f"largest relative difference {largest:.1e} ({name}: {where})"
        )


def _fail_instead_of_skipping(report: Any) -> None:
    if report.skipped and os.environ.get("GRADSCOPE_NO_SKIP") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}\nGRADSCOPE_NO_SKIP=1: no test may be skipped here."
