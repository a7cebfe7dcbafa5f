"""Started by torchrun: profiles models that are wrapped in the ways torch offers.

    torchrun ... worker.py FOLDER CASE...

Rank 0 first profiles each case's plain model on the whole batches, before there is any process
group, and writes ``CASE.reference``. Then each rank profiles the wrapped model on its share of
the batches and writes ``CASE.RANK``: a pickled dictionary. Each case has a process group of its
own, so that one that fails does not take the next ones with it.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import models
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from traces import traces

import gradscope
from gradscope.errors import GradscopeError
from gradscope.records import Profile

STEPS = 3

# A rank that waits longer for the others waits in vain: it fails, and says where it stood.
PATIENCE = 30
PATIENCE_IN_SCENES = 5

Parameters = Iterable[nn.Parameter]
Wrap = Callable[[nn.Module, int], nn.Module]


@dataclass(frozen=True)
class Case:
    """How a model is built, wrapped and profiled.

    ``replicas``: how many ranks get the same samples; 0 is all of them.
    """

    build: Callable[[], nn.Module]
    wrap: Wrap
    kind: type[nn.Module]
    reference: Callable[[], nn.Module] | None = None
    replicas: int = 1
    batches: int = STEPS
    dtype: torch.dtype = torch.float64
    optimizer: Callable[[Parameters], torch.optim.Optimizer] | None = None


# --- Wrapping ---------------------------------------------------------------------------------


def ddp(model: nn.Module, ranks: int, **options: Any) -> nn.Module:
    return DistributedDataParallel(model, **options)


def fsdp(model: nn.Module, ranks: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("data",))
    return sharded(model, mesh)


def sharded(model: nn.Module, mesh: Any) -> nn.Module:
    """By block and by layer of the head, and what is left in the root."""
    for name, module in model.named_modules():
        if name.startswith("blocks.") and name.count(".") == 1:
            fully_shard(module, mesh=mesh)
    fully_shard(model.get_submodule("head"), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def plan(model: nn.Module) -> dict[str, Any]:
    """By columns, then by rows: nothing is exchanged in between."""
    by = {"up": ColwiseParallel, "query": ColwiseParallel, "key": ColwiseParallel}
    by |= {"value": ColwiseParallel, "down": RowwiseParallel, "out": RowwiseParallel}
    return {
        name: by[name.rpartition(".")[2]]()
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in by
    }


def tensor_parallel(model: nn.Module, ranks: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("tensor",))
    return parallelize_module(model, mesh, plan(model))


def two_dimensional(model: nn.Module, ranks: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan(model))
    return sharded(model, mesh["data"])


def sequence_parallel(model: nn.Module, ranks: int) -> nn.Module:
    """Between its layers the MLP block holds a part of each sequence."""
    mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("tensor",))
    block = model.get_submodule("block")
    parallelize_module(
        block,
        mesh,
        {
            "norm": SequenceParallel(),
            "up": ColwiseParallel(input_layouts=Shard(1)),
            "down": RowwiseParallel(output_layouts=Shard(1)),
        },
    )
    enter = PrepareModuleInput(
        input_layouts=Replicate(), desired_input_layouts=Shard(1), use_local_output=True
    )
    leave = PrepareModuleOutput(output_layouts=Shard(1), desired_output_layouts=Replicate())
    parallelize_module(block, mesh, enter)
    parallelize_module(block, mesh, leave)
    return model


def in_training(wrap: Wrap, model: nn.Module, ranks: int) -> nn.Module:
    """With the gradients of a batch, which are the user's."""
    model = wrap(model, ranks)
    whole = models.batches(models.Blocks, 1, torch.float64)
    ((x, y),) = models.share(whole, dist.get_rank(), ranks)
    models.loss(model(x.flip(0)), (x, y)).backward()
    return model


CASES: dict[str, Case] = {
    "ddp-mlp": Case(models.Mlp, ddp, models.Mlp),
    "ddp-cnn": Case(models.Cnn, ddp, models.Cnn),
    "ddp-attention": Case(models.Transformer, ddp, models.Transformer),
    "ddp-further-batches": Case(models.Mlp, ddp, models.Mlp, batches=9),
    "ddp-float32": Case(models.Mlp, ddp, models.Mlp, dtype=torch.float32),
    "ddp-sgd": Case(
        models.Mlp, ddp, models.Mlp, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    ),
    "ddp-adam": Case(models.Blocks, ddp, models.Blocks, optimizer=torch.optim.Adam),
    "ddp-experts": Case(models.Mixture, partial(ddp, find_unused_parameters=True), models.Mixture),
    "ddp-checkpointed": Case(
        partial(models.Blocks, checkpointed=True), ddp, models.Blocks, models.Blocks
    ),
    "ddp-collapsed": Case(models.Collapsed, ddp, models.Collapsed),
    "ddp-recurrent": Case(models.Recurrent, ddp, models.Recurrent),
    "ddp-twins": Case(models.Twins, ddp, models.Twins, optimizer=torch.optim.Adam),
    "ddp-in-training": Case(
        models.Blocks,
        partial(in_training, partial(ddp, gradient_as_bucket_view=True)),
        models.Blocks,
    ),
    "fsdp": Case(models.Blocks, fsdp, models.Blocks),
    "fsdp-attention": Case(models.Transformer, fsdp, models.Transformer),
    "fsdp-further-batches": Case(models.Blocks, fsdp, models.Blocks, batches=9),
    "fsdp-adam": Case(models.Blocks, fsdp, models.Blocks, optimizer=torch.optim.Adam),
    "fsdp-in-training": Case(models.Blocks, partial(in_training, fsdp), models.Blocks),
    "fsdp-twins": Case(models.Twins, fsdp, models.Twins, optimizer=torch.optim.Adam),
    "tp": Case(models.Blocks, tensor_parallel, models.Blocks, replicas=0),
    "tp-attention": Case(models.Transformer, tensor_parallel, models.Transformer, replicas=0),
    "tp-adam": Case(
        models.Blocks, tensor_parallel, models.Blocks, replicas=0, optimizer=torch.optim.Adam
    ),
    "tp-twins": Case(models.Twins, tensor_parallel, models.Twins, replicas=0),
    "tp-nan": Case(models.Blemished, tensor_parallel, models.Blemished, replicas=0),
    "tp-sequence": Case(models.Transformer, sequence_parallel, models.Transformer, replicas=0),
    "fsdp-tp": Case(models.Blocks, two_dimensional, models.Blocks, replicas=2),
    "fsdp-tp-twins": Case(models.Twins, two_dimensional, models.Twins, replicas=2),
    "fsdp-tp-attention": Case(models.Transformer, two_dimensional, models.Transformer, replicas=2),
}


# --- Profiling --------------------------------------------------------------------------------


def profiled(case: Case, model: nn.Module, batches: list[models.Batch]) -> Profile:
    return gradscope.profile(model, batches, models.loss, optimizer=case.optimizer, steps=STEPS)


def reference(case: Case, ranks: int) -> dict[str, Any]:
    """The plain model's profile on one process."""
    whole = models.batches(case.kind, case.batches, case.dtype)
    model = models.built(case.reference or case.build, case.dtype)
    return {"profile": profiled(case, model, whole)}


def on_this_rank(case: Case, rank: int, ranks: int) -> dict[str, Any]:
    """The wrapped model's profile, what it left on the model, and how it trains thereafter."""
    replicas = case.replicas or ranks
    whole = models.batches(case.kind, case.batches, case.dtype)
    own = models.share(whole, rank // replicas, ranks // replicas)
    model = case.wrap(models.built(case.build, case.dtype), ranks).eval()
    before = traces(model)
    profile = profiled(case, model, own)
    changed = [what for what, value in traces(model).items() if value != before.get(what)]
    return {"profile": profile, "changed": changed, "trained": trained(model, own[0])}


def trained(model: nn.Module, batch: models.Batch) -> list[float | None]:
    """The norms of the gradients that training gets from a batch."""
    model.train()
    model.zero_grad()
    models.loss(model(batch[0]), batch).backward()

    def norm(gradient: Tensor | None) -> float | None:
        if isinstance(gradient, DTensor):
            gradient = gradient.full_tensor()
        return None if gradient is None else float(gradient.norm())

    return [norm(parameter.grad) for parameter in model.parameters()]


def plain_on_rank_0(rank: int, ranks: int) -> dict[str, Any]:
    """A model that was not wrapped is one rank's own, also where there are others."""
    case = CASES["ddp-mlp"]
    if rank:
        return {}
    whole = models.batches(case.kind, case.batches, case.dtype)
    return {"profile": profiled(case, models.built(case.build, case.dtype), whole)}


def raised_on_rank_1(rank: int, ranks: int) -> dict[str, Any]:
    """One rank fails in the second step's forward pass, the others wait for it."""
    case = CASES["ddp-mlp"]
    model = models.built(case.build, case.dtype)
    passes = []

    def fail(*_: Any) -> None:
        passes.append(1)
        if rank == 1 and len(passes) == 2:
            raise ValueError("no second pass on this rank")

    model.get_submodule("hidden").register_forward_pre_hook(fail)
    wrapped = ddp(model, ranks).eval()
    own = models.share(models.batches(case.kind, case.batches, case.dtype), rank, ranks)
    before = traces(wrapped)
    error, known = "", False
    try:
        profiled(case, wrapped, own)
    except Exception as raised:
        error, known = f"{type(raised).__name__}: {raised}", isinstance(raised, GradscopeError)
    changed = [what for what, value in traces(wrapped).items() if value != before.get(what)]
    return {"error": error, "known": known, "changed": changed}


def raised_by_the_loss(rank: int, ranks: int) -> dict[str, Any]:
    """All ranks fail between forward and backward, when FSDP has gathered the root's weights."""
    case = CASES["fsdp"]
    model = fsdp(models.built(case.build, case.dtype), ranks).eval()
    own = models.share(models.batches(case.kind, case.batches, case.dtype), rank, ranks)

    def loss(output: Tensor, batch: models.Batch) -> Tensor:
        raise ValueError("no loss")

    before = traces(model)
    error = ""
    try:
        gradscope.profile(model, own, loss, steps=STEPS)
    except GradscopeError as raised:
        error = str(raised)
    changed = [what for what, value in traces(model).items() if value != before.get(what)]
    return {"error": error, "changed": changed, "trained": trained(model, own[0])}


def one_sample_on_rank_1(rank: int, ranks: int) -> dict[str, Any]:
    """A batch that cannot be divided on one rank, where the other one's can."""
    case = CASES["ddp-mlp"]
    whole = models.batches(case.kind, case.batches, case.dtype)
    own = [(x[:1], y[:1]) if rank else (x[1:4], y[1:4]) for x, y in whole]
    model = ddp(models.built(case.build, case.dtype), ranks)
    start = time.perf_counter()
    profile = profiled(case, model, own)
    took = time.perf_counter() - start
    # A rank that waits for this one notices when it ends, so this one stays.
    time.sleep(PATIENCE_IN_SCENES / 2)
    return {"profile": profile, "took": took}


SCENES: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "plain-on-rank-0": plain_on_rank_0,
    "one-sample-on-rank-1": one_sample_on_rank_1,
    "raised-on-rank-1": raised_on_rank_1,
    "raised-by-the-loss": raised_by_the_loss,
}


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # What a rank was doing when it hung; then it ends, and torchrun ends the others.
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
    store = next(iter(dist.rendezvous("env://")))[0]
    for name in names:
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        if rank == 0 and name in CASES:
            attempted(folder / f"{name}.reference", lambda: reference(CASES[name], ranks))  # noqa: B023
        patience = PATIENCE_IN_SCENES if name in SCENES else PATIENCE
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore(name, store),
            rank=rank,
            world_size=ranks,
            timeout=dt.timedelta(seconds=patience),
        )
        run = SCENES.get(name) or partial(on_this_rank, CASES[name])
        attempted(folder / f"{name}.{rank}", lambda: run(rank, ranks))  # noqa: B023
        dist.destroy_process_group()


def attempted(path: Path, run: Callable[[], dict[str, Any]]) -> None:
    """Writes what ``run`` returns, or the traceback of what it raises."""
    start = time.perf_counter()
    try:
        result = run()
    except Exception:
        result = {"traceback": traceback.format_exc()}
    # Renamed when it is complete: ranks may be ended at any time.
    part = path.with_name(path.name + ".part")
    part.write_bytes(pickle.dumps(result | {"seconds": time.perf_counter() - start}))
    part.rename(path)


if __name__ == "__main__":
    main()
