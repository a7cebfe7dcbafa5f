from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import (
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    MetadataIndex,
)

from gradscope.checkpoints.checkpoint import StoredTensor
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.distributed_folders import (
    Chunks,
    assert_same,
    edit,
    read,
    read_all,
    sharded,
)

GRIDS: dict[str, Chunks] = {
    "rows": [((0, 0), (4, 6)), ((4, 0), (3, 6))],
    "columns": [((0, 0), (7, 1)), ((0, 1), (7, 5))],
    "both": [
        ((0, 0), (4, 2)),
        ((0, 2), (4, 4)),
        ((4, 0), (3, 2)),
        ((4, 2), (2, 4)),
        ((6, 2), (1, 4)),
    ],
    "a process without a part": [((0, 0), (7, 6)), ((7, 0), (0, 6))],
    "the same twice": [((0, 0), (7, 6)), ((0, 0), (7, 6))],
}


@pytest.mark.parametrize("chunks", GRIDS.values(), ids=GRIDS.keys())
def test_chunks_are_put_together(chunks: Chunks, tmp_path: Path) -> None:
    whole = torch.randn(7, 6)
    checkpoint = read(sharded(tmp_path / "saved", whole, chunks))
    assert_same(checkpoint.weights["w"], whole)


FAULTS: dict[str, Chunks] = {
    "a gap": [((0, 0), (4, 6)), ((5, 0), (2, 6))],
    "a gap at the beginning": [((1, 0), (6, 6))],
    "a gap at the end": [((0, 0), (6, 6))],
    "an overlap": [((0, 0), (4, 6)), ((3, 0), (4, 6))],
    "an overlap that makes up for a gap": [((0, 0), (4, 6)), ((2, 0), (3, 6))],
    "nothing": [],
    "other dimensions": [((0,), (7,))],
}


@pytest.mark.parametrize("chunks", FAULTS.values(), ids=FAULTS.keys())
def test_chunks_that_do_not_fit_are_refused(chunks: Chunks, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "saved", torch.randn(7, 6), chunks)
    with pytest.raises(CheckpointError, match=r"'w'.*chunks do not make up \(7, 6\)"):
        read(folder)


@pytest.mark.parametrize("stored", [torch.randn(4, 5), torch.randn(6, 4), torch.ones(4, 6).long()])
def test_a_chunk_of_another_shape_is_refused(stored: Tensor, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "saved", torch.randn(7, 6), GRIDS["rows"])
    file = folder / "__0_0.distcp"
    torch.save(stored, file)
    place = MetadataIndex("w", torch.Size((0, 0)))
    edit(
        folder,
        lambda metadata: metadata.storage_data.update(
            {place: _StorageInfo(file.name, 0, file.stat().st_size)}
        ),
    )
    with pytest.raises(CheckpointError, match=r"'w'.*the chunk at \(0, 0\)"):
        read_all(folder)


SHARDING = """
import sys
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.fsdp import fully_shard

folder, flat = sys.argv[1], sys.argv[2] == "flat"
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=dist.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(6, 3)).pow(2).mean().backward()
    optimizer.step()
sharded = get_state_dict(
    model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat)
)
dcp.save({"model": sharded[0], "optimizer": sharded[1]}, checkpoint_id=folder)
full = get_state_dict(
    model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
)
if dist.get_rank() == 0:
    torch.save(full, folder + ".pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_two_processes_that_share_a_model(form: str, tmp_path: Path) -> None:
    script = tmp_path / "sharding.py"
    script.write_text(SHARDING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "saved"), form],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, optimizer = torch.load(tmp_path / "saved.pt", weights_only=True)

    checkpoint = read(tmp_path / "saved")

    assert len(list((tmp_path / "saved").glob("*.distcp"))) == 2
    assert list(checkpoint.weights) == list(model)
    for name, tensor in model.items():
        assert_same(checkpoint.weights[name], tensor)
    (found,) = checkpoint.optimizers
    assert found.kind == "AdamW"
    assert set(found.state) == set(model)
    for name, state in optimizer["state"].items():
        for key in ("exp_avg", "exp_avg_sq"):
            value = found.state[name][key]
            assert isinstance(value, StoredTensor)
            assert_same(value, state[key])
        assert found.state[name]["step"] == 3.0
        assert found.settings[name]["lr"] == 0.01
