"""One training gives the same findings, in whatever form it was saved."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from gradscope.errors import CheckpointError
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Report

pytest.importorskip("safetensors")
pytest.importorskip("huggingface_hub")

from tests.gradscope.checkpoints.faulty import BOTH, TRUSTED, WEIGHTS, trained


def told(report: Report) -> list[Any]:
    """All that is said of faults."""
    return [
        (each.code, each.name, each.severity, each.sites, each.message, each.evidence, each.cause)
        for each in report.findings
    ]


def layers(report: Report) -> list[Any]:
    """All that the table of layers shows, in its order; buffers stand wherever they like."""
    stored = report.profile.stored
    assert stored is not None
    shown = [each for each in stored.weights if each.role != "buffer"]
    # What is NaN does not equal itself; its text does.
    return [(each, repr(stored.gradient(each.name))) for each in shown]


@cache
def bare() -> Report:
    with TemporaryDirectory() as folder:
        return scan_checkpoint(WEIGHTS["bare state_dict"](Path(folder)))


@cache
def whole() -> Report:
    with TemporaryDirectory() as folder:
        return scan_checkpoint(BOTH[".pt"](Path(folder)))


def test_the_training_shows_faults_with_and_without_its_optimizer() -> None:
    def codes(report: Report) -> set[str]:
        return {each.code for each in report.findings}

    assert {"GS101", "GS201", "GS302"} <= codes(whole())
    assert {"GS201", "GS302"} <= codes(bare())
    assert told(whole()) != told(bare())
    names = [name for name, _ in trained()[0].named_parameters()]
    assert [each.name for each, _ in layers(whole())] == names


@pytest.mark.filterwarnings("ignore:`?torch.jit")
@pytest.mark.parametrize("form", WEIGHTS)
def test_weights_alone(tmp_path: Path, form: str) -> None:
    path = WEIGHTS[form](tmp_path)
    if form in TRUSTED:
        with pytest.raises(CheckpointError, match="--trust-pickle"):
            scan_checkpoint(path)
    report = scan_checkpoint(path, trust_pickle=form in TRUSTED)
    assert told(report) == told(bare())
    assert layers(report) == layers(bare())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("form", BOTH)
def test_weights_and_optimizer(tmp_path: Path, form: str) -> None:
    report = scan_checkpoint(BOTH[form](tmp_path))
    assert told(report) == told(whole())
    assert layers(report) == layers(whole())
    assert report.profile.stored is not None
    assert report.profile.stored.order != "names"
    assert report.profile.optimizer == "SGD"
    assert not torch.distributed.is_initialized()
