"""What may happen to a monitor on two ranks; see ``monitored.py``."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import models
import torch
import torch.distributed as dist
from monitor_training import STEPS, Batch, Case, Watched, built, drawn, sgd, train
from torch import Tensor, nn
from worker import ddp

from gradscope.monitor.gauges import Gauge
from gradscope.monitor.ranks import Ranks

MLP = Case(models.Mlp, ddp)


def small(rank: int, ranks: int, steps: int) -> list[Batch]:
    batches = [(x[:64], y[:64]) for x, y in drawn(models.Mlp)]
    return [batches[step % STEPS] for step in range(steps)]


def slow_on_rank_1(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """What a sample costs is not the same on all ranks, and the budget is kept together."""
    if rank:
        see = Gauge.see

        def slowly(self: Gauge, *args: Any, **options: Any) -> None:
            time.sleep(0.002)
            see(self, *args, **options)

        Gauge.see = slowly  # type: ignore[method-assign]
    model = ddp(built(models.Mlp), ranks)
    watched = Watched(model, None, every=2, dense=4, overhead=0.05)
    with watched.monitor as monitor:
        train(MLP, model, small(rank, ranks, 60), rank, ranks, monitor, watched.optimizer)
    return watched.told


def uneven(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """In the last step one rank has fewer samples."""
    *batches, (x, y) = small(rank, ranks, 5)
    model = ddp(built(models.Mlp), ranks)
    watched = Watched(model, None)
    with watched.monitor as monitor:
        train(MLP, model, batches, rank, ranks, monitor, watched.optimizer)
        own = slice(0, 40) if rank == 0 else slice(40, 64)
        train(MLP, model, [(x[own], y[own])], 0, 1, monitor, watched.optimizer)
    plain = built(models.Mlp)
    alone = Watched(plain, None)
    # It is on one process whatever others do.
    alone.monitor._sampler.ranks.undecided = False
    with alone.monitor as monitor:
        train(MLP, plain, [*batches, (x, y)], 0, 1, monitor, alone.optimizer)
    return watched.told | {"alone": alone.told}


class Pipeline(nn.Module):
    """Two stages, each on a rank of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh())
        self.back = nn.Sequential(nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.back(self.front(x))
        return out


def pipeline(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """Ranks have other layers; only the last one has a loss."""
    whole = models.built(Pipeline, torch.float64)
    batches = drawn(models.Mlp)[:10]
    name = "back" if rank else "front"
    stage = getattr(models.built(Pipeline, torch.float64), name)
    watched = Watched({name: stage}, folder / "run.gradscope")
    with watched.monitor as monitor:
        for x, y in batches:
            between = torch.empty(len(x), 16, dtype=torch.float64)
            if rank == 0:
                out = stage(x)
                dist.send(out.detach(), 1)
                dist.recv(between, 1)
                out.backward(between)
            else:
                dist.recv(between, 0)
                loss = models.loss(stage(between.requires_grad_()), (x, y))
                loss.backward()
                dist.send(between.grad, 0)
            watched.optimizer.step()
            watched.optimizer.zero_grad()
            monitor.step(loss if rank else None)
    alone = Watched(whole, None)
    alone.monitor._sampler.ranks.undecided = False
    with alone.monitor as monitor:
        train(Case(Pipeline, ddp), whole, batches, 0, 1, monitor, alone.optimizer)
    return watched.told | {"alone": alone.told}


def some(who: int, folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """Only one rank has a monitor."""
    Ranks.meeting = 0.5
    model = ddp(built(models.Mlp), ranks)
    batches = small(rank, ranks, 8)
    if rank != who:
        train(MLP, model, batches, rank, ranks, None, sgd(model))
        return {}
    watched = Watched(model, folder / "run.gradscope")
    with watched.monitor as monitor:
        train(MLP, model, batches, rank, ranks, monitor, watched.optimizer)
    return watched.told


def never_told(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """A rank has a monitor, and does not tell it of steps."""
    Ranks.meeting = 0.5
    model = ddp(built(models.Mlp), ranks)
    watched = Watched(model, folder / "run.gradscope")
    with watched.monitor as monitor:
        told = None if rank else monitor
        train(MLP, model, small(rank, ranks, 8), rank, ranks, told, watched.optimizer)
    return watched.told


def killed(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """A rank is killed while the sums of a step are on their way."""
    model = ddp(built(models.Mlp), ranks)
    watched = Watched(model, folder / "run.gradscope", every=2)
    raised = ""
    start = 0.0
    try:
        with watched.monitor as monitor:
            batches = small(rank, ranks, 20)
            train(MLP, model, batches[:13], rank, ranks, monitor, watched.optimizer)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            start = time.perf_counter()
            train(MLP, model, batches[13:], rank, ranks, monitor, watched.optimizer)
    except RuntimeError as error:
        raised = str(error)
    return watched.told | {"raised": raised, "after": time.perf_counter() - start}


def apart(folder: Path, rank: int, ranks: int, fault: Callable[[int, Watched], None]) -> Any:
    """Models of their own, that need no other rank to train; something happens to one monitor."""
    model = built(models.Mlp)
    watched = Watched(model, folder / "run.gradscope", every=2)
    steps = 0
    with contextlib.suppress(KeyboardInterrupt), watched.monitor as monitor:
        for batch in small(rank, ranks, 20):
            if rank == 1:
                fault(steps, watched)
            train(MLP, model, [batch], rank, ranks, monitor, watched.optimizer)
            steps += 1
            if steps == 8:
                dist.barrier()
    start = time.perf_counter()
    dist.barrier()
    return watched.told | {"trained": steps, "waited": time.perf_counter() - start}


def interrupt(step: int, watched: Watched) -> None:
    if step == 11:
        raise KeyboardInterrupt


def break_down(step: int, watched: Watched) -> None:
    if step == 11:
        watched.monitor.failed(ValueError("broken"))


def skip(step: int, watched: Watched) -> None:
    if step == 11:
        watched.monitor._sampler.steps += 2
        watched.monitor._sampler._schedule.next += 2


def hang(step: int, watched: Watched) -> None:
    if step == 11:
        time.sleep(3)


def hung_on_rank_1(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    Ranks.patience = 1.0
    told: dict[str, Any] = apart(folder, rank, ranks, hang)
    return told


def destroyed(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """The user ends all process groups while a sum is on its way; then the run is resumed."""
    model = ddp(built(models.Mlp), ranks)
    first = Watched(model, folder / "run.gradscope")
    # The last step is sampled.
    train(MLP, model, small(rank, ranks, 9), rank, ranks, first.monitor, first.optimizer)
    second = Watched(model, None)
    with second.monitor as monitor:
        train(MLP, model, small(rank, ranks, 3), rank, ranks, monitor, second.optimizer)
        dist.destroy_process_group()
        first.monitor.close()
    return first.told


def resumed(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """The second session begins after the first, on all ranks."""
    model = ddp(built(models.Mlp), ranks)
    for _ in range(2):
        watched = Watched(model, folder / "run.gradscope")
        with watched.monitor as monitor:
            train(MLP, model, small(rank, ranks, 10), rank, ranks, monitor, watched.optimizer)
        dist.barrier()
    return watched.told


def other_models(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """Models that have nothing in common but the names of their parts."""
    act, width = (nn.Tanh(), 20) if rank else (nn.ReLU(), 16)
    model = nn.Sequential(nn.Linear(12, width), act, nn.Linear(width, 5), nn.ReLU())
    watched = Watched(model, folder / "run.gradscope")
    with watched.monitor as monitor:
        batches = [(x.float(), y) for x, y in small(rank, ranks, 9)]
        train(MLP, model, batches, rank, ranks, monitor, watched.optimizer)
    return watched.told


def made_before(folder: Path, rank: int, ranks: int) -> dict[str, Any]:
    """The monitor is there before the process group is."""
    store = dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    model = built(models.Mlp)
    watched = Watched(model, folder / "run.gradscope")
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("again", store), rank=rank, world_size=ranks
    )
    wrapped = ddp(model, ranks)
    with watched.monitor as monitor:
        train(MLP, wrapped, small(rank, ranks, 9), rank, ranks, monitor, watched.optimizer)
    return watched.told


SCENES: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "slow-on-rank-1": slow_on_rank_1,
    "uneven": uneven,
    "pipeline": pipeline,
    "only-on-rank-0": partial(some, 0),
    "only-on-rank-1": partial(some, 1),
    "never-told": never_told,
    "killed": killed,
    "interrupted": partial(apart, fault=interrupt),
    "broken": partial(apart, fault=break_down),
    "skipped": partial(apart, fault=skip),
    "hung": hung_on_rank_1,
    "destroyed": destroyed,
    "resumed": resumed,
    "other-models": other_models,
    "made-before": made_before,
}
