"""Patches under DDP and FSDP2, in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

SCRIPT = Path(__file__).with_name("patched.py")


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_wrapped_models_are_patched_as_one_process_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2", str(SCRIPT), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        # Otherwise gloo looks for the address that the host's name resolves to, if to any.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done.0", "done.1"]
