"""Run by torchrun: a patched model under DDP and FSDP2 has the gradients of one process."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import gradscope

SITES = ("::relu@1", "act", "block.act@0", "block::relu")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(6, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.act(self.linear(x)) - 0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.one, self.two = Block(), nn.Linear(6, 6), nn.Linear(6, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(self.block(x)))
        x = self.act(self.two(self.block(x)))
        return functional.relu(self.one(x) - 0.1)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    found = [each.grad for each in model.parameters()]
    assert all(each is not None for each in found)
    return [each.full_tensor() if hasattr(each, "full_tensor") else each for each in found]


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    plain, x = Net(), torch.randn(8 * ranks, 6)
    mine = x[8 * rank : 8 * rank + 8]
    replica, sharded = copy.deepcopy(plain), copy.deepcopy(plain)
    fully_shard(sharded.block)
    fully_shard(sharded)
    unpatched = [each.clone() for each in gradients(plain, x)]
    gradscope.replace_derivative(plain, "relu-logistic", SITES, k=3.5, selective=False)
    expected = gradients(plain, x)
    assert not all(map(torch.equal, expected, unpatched))
    for name, model in (("DDP", DistributedDataParallel(replica)), ("FSDP2", sharded)):
        keys = list(model.state_dict())
        with gradscope.replace_derivative(model, "relu-logistic", SITES, k=3.5, selective=False):
            assert list(model.state_dict()) == keys, name
            for one, other in zip(gradients(model, mine), expected, strict=True):
                torch.testing.assert_close(one, other)
        for one, other in zip(gradients(model, mine), unpatched, strict=True):
            torch.testing.assert_close(one, other)
    (folder / f"done.{rank}").touch()
    # One that ends while another still listens to it has that one abort.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
