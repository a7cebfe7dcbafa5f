"""A run of checkpoints, scanned by the processes of torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gradscope.checkpoints import checkpoints_in
from gradscope.reports import render_json
from gradscope.trajectories import scan_checkpoints


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for step in range(1, 6):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.Linear(20, 2))
        if step > 3:
            model[2].weight.data[3, 1] = torch.nan
        torch.save({"model": model.state_dict(), "step": step}, folder / f"step_{step}.pt")
    file = folder / "step_2.pt"
    file.write_bytes(file.read_bytes()[:-200])
    return folder


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_ranks_share_the_files_and_the_first_one_reports(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    command += ["-m", "gradscope.cli", "scan", str(run), "--format", "json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        # Otherwise gloo looks for the address that the host's name resolves to, if to any.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, cwd=tmp_path
    )
    # What rank 0 exits with, torchrun says and makes 1 of; others hand over and exit with 0.
    assert done.returncode == 1, done.stderr
    assert "exitcode  : 3" in done.stderr
    assert "rank      : 0" in done.stderr
    assert "Traceback" not in done.stderr.partition("gradscope: step_2.pt was skipped:")[0]
    assert done.stderr.count("gradscope: ") == 1
    report = json.loads(done.stdout)
    alone = json.loads(render_json(scan_checkpoints(checkpoints_in(run), name=str(run))))
    assert [finding["code"] for finding in report["findings"]] == ["GS401"]
    assert "Since step 4, in 2 of 4 checkpoints." in report["findings"][0]["message"]
    for told in (report, alone):
        del told["environment"]
    assert _same(report) == _same(alone)


def _same(report: dict[str, Any]) -> str:
    return json.dumps(report, sort_keys=True)
