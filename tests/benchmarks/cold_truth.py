"""Holds what ``gradscope scan`` says of a checkpoint against what a run on data shows.

Cold: ``scan_checkpoint`` on a file that was saved. Warm: ``gradscope.profile`` and ``diagnose`` of
the same weights on the data they were trained on, once without updates, for the shares of dead
units, and once more with the saved optimizer going on.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradscope
from gradscope.inactive import inactive_units
from gradscope.pipeline import scan_checkpoint
from gradscope.records import Finding, Profile, Role, Severity
from gradscope.rules.signal import backward_sites, finite_median, first_over_last
from gradscope.stored import Stored
from tests.benchmarks.cold_tables import CODES
from tests.benchmarks.cold_training import Case, Optimizer, saved, trained

BATCHES = 8


def examined(case: Case) -> dict[str, Any]:
    """One network, as it is kept."""
    torch.set_num_threads(1)
    model, optimizer = trained(case)
    with tempfile.TemporaryDirectory() as folder:
        report = scan_checkpoint(saved(case, model, optimizer, Path(folder) / "last.pt"))
        # Nothing of the file is needed any more: the report holds plain numbers.
    assert report.profile is not None
    assert report.profile.stored is not None
    stored = report.profile.stored
    still, findings = _warm(case, model, optimizer)
    sites = backward_sites(still)
    ratio = finite_median(first_over_last(sites)) if len(sites) > 1 else math.nan
    dead = _dead_shares(still, stored)
    return {
        "network": case.name,
        "kind": case.kind,
        "why": case.why,
        "rule": case.rule,
        "cold": _codes(report.findings),
        "warm": _codes(findings),
        "dead": [[name, _rounded(cold), _rounded(warm)] for name, cold, warm in dead],
        "ratio cold": _rounded(_first_bias_over_last(stored)),
        "ratio warm": _rounded(ratio),
        "messages": [f"{each.code}: {each.message}" for each in report.findings],
        "loss": _rounded(still.losses[0]),
    }


def _warm(
    case: Case, model: nn.Module, optimizer: Optimizer
) -> tuple[Profile, tuple[Finding, ...]]:
    torch.manual_seed(case.seed + 1)
    data = [
        batch for _, batch in zip(range(BATCHES), case.data.batches(case.samples), strict=False)
    ]
    state = deepcopy(optimizer.state_dict())

    def going_on(parameters: Iterable[nn.Parameter]) -> Optimizer:
        made = case.optimizer(parameters)
        made.load_state_dict(state)
        return made

    still = gradscope.profile(model, data, case.data.loss, steps=BATCHES)
    moving = gradscope.profile(model, data, case.data.loss, optimizer=going_on, steps=BATCHES)
    dead = gradscope.diagnose(still, select=["GS201"]).items
    return still, (*dead, *gradscope.diagnose(moving, select=CODES, ignore=["GS201"]).items)


def _codes(findings: Iterable[Finding]) -> list[str]:
    """Of those that are more than a remark."""
    return sorted({each.code for each in findings if each.severity is not Severity.INFO})


def _dead_shares(profile: Profile, stored: Stored) -> list[tuple[str, float, float]]:
    """Name, cold and warm share of dead units at each ReLU; cold NaN where the file is silent."""
    shares = inactive_units(stored)
    pairs = []
    before = ""
    for site in profile.sites:
        if site.role is Role.LAYER:
            before = site.module
        if site.dead is not None:
            pairs.append((site.name, shares.get(f"{before}.weight", math.nan), site.dead))
    return pairs


def _rounded(value: float) -> float:
    """NaN for infinity, too, as files keep it."""
    return float(f"{value:.4g}") if math.isfinite(value) else math.nan


def _first_bias_over_last(stored: Stored) -> float:
    """Of the gradients that are remembered and not zero; NaN where there are not two."""
    known = [
        each.gradient_rms
        for each in stored.gradients
        if each.name.endswith("bias") and each.gradient_rms > 0
    ]
    return known[0] / known[-1] if len(known) > 1 else math.nan
