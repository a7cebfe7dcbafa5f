"""What watching a training costs: gradscope's monitor beside other ways, and beside nothing.

Each arm trains its own model, from the same weights on the same batches. In each round each arm
takes a block of steps, beside a block of a training that nobody watches; who goes first alternates.
Of the rounds the median is printed, and in brackets the quartiles:

- step time: of a watched step over a step that nobody watches, of the same round. On a busy machine
  it does not resolve a per cent: the A/A control, a second training that nobody watches, shows what
  it does resolve.
- inside: time in the watching code over the rest of the step, in per cent. All that an arm
  registers with torch is wrapped and timed for that, and so are the calls it is used by. Not in it
  is what torch does more because hooks are there, and what other threads do.
- says: the same by the monitor's own account, which it keeps its overhead budget with.
- threads: CPU time of the process's other threads (those that write) over the same rest; a block is
  over when they have nothing left to do. Other processes, as wandb has one, are in no figure.
- memory: peak over that of a training that nobody watches. It is exact: all allocations and
  releases of tensors' memory in order, as torch's profiler records them, from before the model is
  made to the end of the first steps, at which all arms measure what they ever do. Objects of Python
  and libraries that take memory without asking torch are not in it.

Not every step of an arm costs the same. A block consists of whole cycles, and the figures are
weighted as the schedule has them. Where steps are slow the cycle is shorter than the schedule's:
the monitor samples every 4th step, and of the four the sampled one, the next and the last, at which
it may have work left to do and gets ready, count for one step each, the ordinary one for all others
of a hundred, or of ten. So wandb's 1000 steps are made of one that it logs, those after it and
others, torchmortem's presets of those that record everything, what is cheap, nothing. The first
steps, at which the monitor samples densely, are not in the figures. One thread, so that no step
waits for another core.

Peers that are not installed are left out, and named: wandb, tensorboard, torchmortem.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import logging
import math
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print where each profile starts and ends

import torch
from monitor_arms import Arm, Nobody, Row, Watcher, arms
from monitor_meter import Meter, install, metering
from monitor_workloads import WORKLOADS, Training, Workload
from torch.profiler import ProfilerActivity

PEERS = ("wandb", "tensorboard", "torchmortem")


@dataclass
class Block:
    """Steps of one arm in one round, in seconds of each."""

    total: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    said: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)


def run(training: Training, watcher: Watcher, steps: int) -> Block:
    block = Block()
    with metering(watcher.meter):
        for _ in range(steps):
            inside, said, threads = watcher.meter.seconds, watcher.spent, cpu_of_others()
            start = time.perf_counter()
            watcher.step(training.step())
            block.total.append(time.perf_counter() - start)
            block.inside.append(watcher.meter.seconds - inside)
            block.said.append(watcher.spent - said)
            block.threads.append(cpu_of_others() - threads)
    if steps:
        block.threads[-1] += settled()
    return block


def cpu_of_others() -> float:
    """Seconds that other threads of the process have computed."""
    return time.process_time() - time.thread_time()


def settled() -> float:
    """Waits until the other threads have nothing to do, so that the next block is not slowed down.

    Returns:
        Seconds that they have computed meanwhile.
    """
    start = before = cpu_of_others()
    for _ in range(100):
        time.sleep(0.01)
        now = cpu_of_others()
        if now - before < 0.0005:
            break
        before = now
    return cpu_of_others() - start


def attached(arm: Arm, training: Training, folder: Path) -> Watcher:
    meter = Meter()
    with metering(meter):
        return arm.attach(meter, training, Path(tempfile.mkdtemp(dir=folder)))


# --- Memory -----------------------------------------------------------------------------------


def peak(arm: Arm, workload: Workload, folder: Path) -> int:
    """The most bytes of tensors that a training holds at a time."""
    gc.collect()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training = Training(workload)
        watcher = attached(arm, training, folder)
        run(training, watcher, min(arm.cycle, 4) + 1)
    watcher.close()
    traced = profiler.profiler.kineto_results.events()
    changes = sorted(
        ((each.start_ns(), each.nbytes()) for each in traced if each.name() == "[memory]"),
        key=lambda change: change[0],
    )
    return max(itertools.accumulate((size for _, size in changes), initial=0))


# --- Time -------------------------------------------------------------------------------------


@dataclass
class Seat:
    """An arm while it takes part."""

    arm: Arm
    training: Training
    watcher: Watcher
    plain: list[Block] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def steps(self, workload: Workload) -> int:
        """Of a block: whole cycles."""
        return math.ceil(workload.block / self.arm.cycle) * self.arm.cycle


def time_all(
    names: dict[str, Arm], workload: Workload, folder: Path, rounds: int
) -> tuple[dict[str, Seat], dict[str, str]]:
    """Runs all arms in turn.

    Returns:
        Those that took part, and of those that failed why.
    """
    seats: dict[str, Seat] = {}
    failed: dict[str, str] = {}
    nobody = Training(workload)
    plain = attached(Arm(Nobody, [Row("")]), nobody, folder)
    run(nobody, plain, 2)
    for name, arm in names.items():
        training = Training(workload)
        with noting(failed, name, arm):
            seats[name] = Seat(arm, training, attached(arm, training, folder))
    for number in range(-1, rounds):  # the first one warms up
        order = list(seats)
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            seat = seats[name]
            steps = seat.steps(workload)
            beside = 0 if number < 0 else min(steps, max(workload.beside, workload.block))
            pair = [(nobody, plain, beside), (seat.training, seat.watcher, steps)]
            with noting(failed, name, seat.arm):
                first, second = pair if number % 2 else pair[::-1]
                blocks = {each[0]: run(*each) for each in (first, second)}
                if number >= 0:
                    seat.plain.append(blocks[nobody])
                    seat.blocks.append(blocks[seat.training])
        for name in failed:
            seats.pop(name, None)
    for name, seat in seats.items():
        with noting(failed, name, seat.arm):
            seat.watcher.close()
    return seats, failed


@contextmanager
def noting(failed: dict[str, str], name: str, arm: Arm) -> Iterator[None]:
    """A peer that fails is named, and not fatal."""
    try:
        yield
    except Exception as error:
        if arm.needs == "gradscope":
            raise
        failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


@dataclass(frozen=True)
class Figure:
    """Over the rounds."""

    median: float
    low: float
    high: float


def over_rounds(values: Sequence[float]) -> Figure:
    if len(values) == 1:
        return Figure(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(middle, low, high)


def weighted(row: Row, seconds: Sequence[float]) -> float:
    """Of a block's steps, per step of the schedule."""
    cycle = len(row.weights)
    return sum(
        weight * statistics.fmean(seconds[position::cycle])
        for position, weight in enumerate(row.weights)
    )


def figures(seat: Seat, row: Row) -> dict[str, Figure]:
    found = defaultdict(list)
    for plain, block in zip(seat.plain, seat.blocks, strict=True):
        total, inside = weighted(row, block.total), weighted(row, block.inside)
        rest = total - inside
        found["time"].append(total / statistics.fmean(plain.total))
        found["inside"].append(100 * inside / rest)
        found["threads"].append(100 * weighted(row, block.threads) / rest)
        if seat.watcher.says:
            found["says"].append(100 * weighted(row, block.said) / rest)
    return {name: over_rounds(values) for name, values in found.items()}


# --- Showing ----------------------------------------------------------------------------------


def percent(figure: Figure | None, width: int, quartiles: bool = False) -> str:
    if figure is None:
        return " " * width
    digits = 2 if abs(figure.median) < 9.995 else 0
    text = f"{figure.median:.{digits}f} %"
    if quartiles:
        text += f" ({figure.low:.{digits}f}-{figure.high:.{digits}f})"
    return f"{text:>{width}}"


def goals(row: Row, share: float, memory: float) -> str:
    said = []
    if row.share is not None:
        met = "met" if share <= row.share else "missed"
        said.append(f"at most {row.share:g} %: {met}")
    if row.memory is not None:
        met = "met" if memory <= row.memory else "missed"
        said.append(f"at most {row.memory:g}x: {met}")
    return "; ".join(said)


HEAD = f"    {'':<35}{'step time':>20}{'inside':>24}{'says':>9}{'threads':>9}{'memory':>9}  goals"


def line(row: Row, of: dict[str, Figure], memory: float) -> str:
    ratio = of["time"]
    text = f"{ratio.median:.2f}x ({ratio.low:.2f}-{ratio.high:.2f})"
    inside = percent(of["inside"], 24, quartiles=True)
    others = percent(of.get("says"), 9) + percent(of["threads"], 9)
    end = goals(row, of["inside"].median, memory)
    return f"    {row.title:<35}{text:>20}{inside}{others}{memory:>8.3f}x  {end}".rstrip()


def compared(name: str, chosen: Sequence[str], rounds: int | None) -> list[dict[str, Any]]:
    """Measures and prints one workload.

    Returns:
        A record for each line.
    """
    workload = WORKLOADS[name]
    have = {
        each: arm
        for each, arm in arms(name, workload).items()
        if (not chosen or each in chosen) and importlib.util.find_spec(arm.needs)
    }
    records = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        alone = peak(Arm(Nobody, [Row("")]), workload, folder)
        memory: dict[str, float] = {}
        failed: dict[str, str] = {}
        for each, arm in have.items():
            with noting(failed, each, arm):
                memory[each] = peak(arm, workload, folder) / alone
        running = {each: arm for each, arm in have.items() if each not in failed}
        seats, late = time_all(running, workload, folder, rounds or workload.rounds)
        step = statistics.median(t for seat in seats.values() for b in seat.plain for t in b.total)
        elements = sum(each.numel() for each in workload.build().parameters())
        print(
            f"\n{workload.title}: {elements / 1e6:.1f} M parameters, input "
            f"{'x'.join(map(str, workload.inputs))}; a step takes {1e3 * step:.1f} ms, "
            f"peak {alone / 2**20:.1f} MiB\n{HEAD}"
        )
        for each, seat in seats.items():
            for row in seat.arm.rows:
                of = figures(seat, row)
                print(line(row, of, memory[each]))
                values = {key: vars(figure) for key, figure in of.items()}
                title = row.title.strip()
                records.append({"workload": name, "arm": title, "memory": memory[each], **values})
        for each, why in {**failed, **late}.items():
            print(f"    {have[each].rows[0].title:<35} failed: {why}")
    return records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = sorted({each for name, of in WORKLOADS.items() for each in arms(name, of)})
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--arms", nargs="+", choices=known, default=[])
    parser.add_argument("--rounds", type=int, help="instead of what each workload has")
    parser.add_argument("--quick", action="store_true", help="two rounds: too few to tell")
    parser.add_argument("--json", type=Path, help="file that takes the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", "Full backward hook is firing")  # torchmortem's
    install()
    there = [f"{each} {version(each)}" for each in PEERS if importlib.util.find_spec(each)]
    absent = [each for each in PEERS if not importlib.util.find_spec(each)]
    print(f"torch {torch.__version__}, 1 thread; {', '.join(there)}")
    if absent:
        print(f"not installed, left out: {', '.join(absent)}")
    records = []
    for name in arguments.only:
        rounds = 2 if arguments.quick else arguments.rounds
        records += compared(name, arguments.arms, rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
