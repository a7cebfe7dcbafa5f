"""Started by torchrun: trains models with a monitor on each rank, also in ways that go wrong.

    torchrun ... monitored.py FOLDER CASE...

Each case runs in a forked child of each rank, so that one that ends badly takes no other with it.
It writes ``CASE.RANK``, a pickled dictionary; in the cases that are compared rank 0 first trains
the plain model on the whole batches, with a monitor of its own, and writes ``CASE.reference``.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import models
import torch
import torch._dynamo  # optimizers import it, which takes seconds: once, and not in each child
import torch.distributed as dist
from monitor_scenes import SCENES
from monitor_training import Case, Watched, built, drawn, sgd, train
from torch import Tensor, nn
from worker import attempted, ddp, fsdp, tensor_parallel, two_dimensional

from gradscope.registry import rules

PATIENCE = 20

CASES = {
    "ddp": Case(models.Mlp, ddp),
    "ddp-accumulated": Case(models.Cnn, ddp, parts=2),
    "ddp-experts": Case(models.Mixture, partial(ddp, find_unused_parameters=True)),
    "fsdp": Case(models.Blocks, fsdp, clip=0.5),
    "tp": Case(models.Blocks, tensor_parallel, replicas=0),
    "tp-attention": Case(models.Transformer, tensor_parallel, replicas=0),
    "fsdp-tp": Case(models.Blocks, two_dimensional, replicas=2),
}


def collectives(apart: Any = None) -> int:
    """How many there were so far in all groups but one."""
    groups = [each for each in dist.distributed_c10d._world.pg_map if each is not apart]
    return sum(each._get_sequence_number_for_group() for each in groups)


def parameters(model: nn.Module) -> list[Tensor]:
    return [
        (each.to_local() if hasattr(each, "to_local") else each).detach().clone()
        for each in model.parameters()
    ]


def reference(case: Case, folder: Path) -> dict[str, Any]:
    model = built(case.kind)
    watched = Watched(model, folder / "reference.gradscope")
    with watched.monitor as monitor:
        train(case, model, drawn(case.kind), 0, 1, monitor, watched.optimizer)
    return watched.told


def compared(case: Case, folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    replicas = case.replicas or ranks
    place = rank // replicas, ranks // replicas
    batches = drawn(case.kind)
    plain = case.wrap(built(case.kind), ranks)
    before = collectives()
    train(case, plain, batches, *place, None, sgd(plain))
    usual = collectives() - before
    model = case.wrap(built(case.kind), ranks)
    watched = Watched(model, folder / "run.gradscope", strict=True)
    before = collectives()
    with watched.monitor as monitor:
        train(case, model, batches[:1], *place, monitor, watched.optimizer)
        group = monitor._sampler.ranks._group
        setup = group._get_sequence_number_for_group()
        train(case, model, batches[1:], *place, monitor, watched.optimizer)
        own = group._get_sequence_number_for_group()
        training = collectives(group) - before
        del group
    return watched.told | {
        "setup": setup,
        "collectives": own - setup,
        "added": training - usual,
        "same": all(map(torch.equal, parameters(plain), parameters(model))),
    }


# --- Processes --------------------------------------------------------------------------------


def run(folder: Path, name: str, rank: int, ranks: int) -> None:
    """In a child."""
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
    own = folder / f"{name}-stores"
    own.mkdir(exist_ok=True)
    if rank == 0 and name in CASES:
        attempted(folder / f"{name}.reference", lambda: reference(CASES[name], own))
    store = next(iter(dist.rendezvous("env://")))[0]
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(name, store),
        rank=rank,
        world_size=ranks,
        timeout=dt.timedelta(seconds=PATIENCE),
    )
    scene = SCENES.get(name) or partial(compared, CASES[name])

    def recorded() -> dict[str, Any]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = scene(own, rank, ranks)
        said = [str(each.message) for each in caught]
        return result | {"warnings": [each for each in said if each.startswith("gradscope")]}

    attempted(folder / f"{name}.{rank}", recorded)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Rules are imported when they are needed, which takes time, too.
    rules()
    for name in names:
        process = os.fork()
        if process == 0:
            try:
                run(folder, name, rank, ranks)
            finally:
                os._exit(0)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main()
