"""What scanning a checkpoint of many gigabytes costs: time over reading it, and peak memory.

Files like those of language models are made in a temporary folder, one at a time, and each is gone
through by processes of their own, in turn:

- sum: the format's own loader (``safetensors.safe_open``, ``torch.load(mmap=True)``), and
  ``tensor.sum()`` of every tensor, once. It gives no memory back, which is the fastest.
- scan: ``gradscope.pipeline.scan_checkpoint``, with all rules.

Both use one thread. Times are of the work alone, without starting Python and its imports; peak
memory is what the system says (VmHWM), with these, and with the pages of the file that are shown.
The files have just been written and lie in the system's memory; with ``--from-disk`` there is one
more round, before which they are put out of it. Rates are the bytes of the tensors over the median
time. Ratios are the median over the rounds of the sum's time over the scan's: in seconds of the
clock, and in seconds of the processor, which matter where other work disturbs.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Before numpy and torch are imported.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import torch
from torch import Tensor

from gradscope import registry
from gradscope.pipeline import scan_checkpoint

WIDTH, INNER, ENTRIES = 4096, 11008, 128256
ALLOWED_TENSORS, ALLOWED_BYTES = 1.5, 500e6

# A prime number, so that rows of a tensor that is made of these numbers differ.
POOL = 60_000_011

Shapes = dict[str, tuple[int, ...]]


# --- Files ------------------------------------------------------------------------------------


def transformer(elements: float, width: int = WIDTH, entries: int = ENTRIES) -> Shapes:
    """A decoder of so many elements at least: a table, and as many blocks as it takes."""
    shapes: Shapes = {"model.embed_tokens.weight": (entries, width)}
    inner = width * INNER // WIDTH
    for number in range(1000):
        if sum(map(math.prod, shapes.values())) >= elements:
            break
        block = f"model.layers.{number}"
        shapes |= {
            f"{block}.input_layernorm.weight": (width,),
            f"{block}.self_attn.q_proj.weight": (width, width),
            f"{block}.self_attn.q_proj.bias": (width,),
            f"{block}.self_attn.k_proj.weight": (width // 4, width),
            f"{block}.self_attn.v_proj.weight": (width // 4, width),
            f"{block}.self_attn.o_proj.weight": (width, width),
            f"{block}.post_attention_layernorm.weight": (width,),
            f"{block}.mlp.gate_proj.weight": (inner, width),
            f"{block}.mlp.up_proj.weight": (inner, width),
            f"{block}.mlp.down_proj.weight": (width, inner),
        }
    return shapes


class Numbers:
    """Random ones without end, of which only some are in memory."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self._pool = torch.cat(
            [(torch.randn(each, generator=generator) * 0.02).to(dtype) for each in pieces(POOL)]
        )
        self._at = 0

    def parts(self, count: int) -> Iterator[Tensor]:
        while count:
            part = self._pool[self._at : self._at + count]
            self._at = (self._at + len(part)) % POOL
            count -= len(part)
            yield part


def pieces(count: int, most: int = 1 << 22) -> Iterator[int]:
    for begin in range(0, count, most):
        yield min(most, count - begin)


def write_safetensors(path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        type_name = {torch.bfloat16: "BF16", torch.float32: "F32"}[dtype]
        header[name] = {"dtype": type_name, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = Numbers(dtype)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in numbers.parts(end // dtype.itemsize):
            part.view(torch.uint8).numpy().tofile(file)
        os.fsync(file.fileno())


def write_torch(path: Path, shapes: Shapes, dtype: torch.dtype, with_adam: bool) -> None:
    # None of this memory is touched: torch.save leaves room for it in the file.
    saved: dict[str, Any] = {
        "model": {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    }
    if with_adam:
        group = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        moments = ("exp_avg", "exp_avg_sq")
        saved["optimizer"] = {
            "state": {
                number: {"step": torch.empty(())}
                | {each: torch.empty(shape, dtype=dtype) for each in moments}
                for number, shape in enumerate(shapes.values())
            },
            "param_groups": [
                group | {"params": list(range(len(shapes))), "decoupled_weight_decay": True}
            ],
        }
    with torch.serialization.skip_data():
        torch.save(saved, path)
    numbers = Numbers(dtype)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        loaded = torch.load(path, mmap=True)
    for kept in loaded.get("optimizer", {}).get("state", {}).values():
        kept["step"].fill_(1000.0)
    for name, tensor in named(loaded):
        room, at = tensor.view(-1), 0
        for part in numbers.parts(tensor.numel() if tensor.ndim else 0):
            room[at : at + len(part)] = part.square() if name == "exp_avg_sq" else part
            at += len(part)
    del loaded
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def named(value: Any, name: object = "") -> Iterator[tuple[object, Tensor]]:
    """All tensors in containers, by their last key."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from named(each, key)


# --- What is timed ----------------------------------------------------------------------------


def shown(path: Path) -> Iterator[Tensor]:
    """All tensors of a file, by the format's own loader."""
    if path.suffix == ".pt":
        yield from (tensor for _, tensor in named(torch.load(path, mmap=True)))
    else:
        safetensors = importlib.import_module("safetensors")  # installed with transformers
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (it is no mapping)
                yield file.get_tensor(name)


def summed(path: Path) -> None:
    for tensor in shown(path):
        float(tensor.sum())


WORK: dict[str, Callable[[Path], object]] = {"sum": summed, "scan": scan_checkpoint}


def child(work: str, path: Path) -> None:
    torch.set_num_threads(1)
    registry.rules()  # imports them
    begin, busy = time.perf_counter(), time.process_time()
    WORK[work](path)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
    print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak}))


# --- Files and figures ------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    suffix: str
    dtype: torch.dtype
    shapes: Shapes
    with_adam: bool = False

    @property
    def bytes(self) -> int:
        weights = sum(map(math.prod, self.shapes.values())) * self.dtype.itemsize
        return weights * (3 if self.with_adam else 1)

    @property
    def largest(self) -> int:
        return max(map(math.prod, self.shapes.values())) * self.dtype.itemsize

    @property
    def name(self) -> str:
        kind = f"{self.suffix}, {str(self.dtype).removeprefix('torch.')}"
        return f"{kind}, with Adam's moments" if self.with_adam else kind

    def write(self, path: Path) -> None:
        if self.suffix == ".pt":
            write_torch(path, self.shapes, self.dtype, self.with_adam)
        else:
            write_safetensors(path, self.shapes, self.dtype)


def cases(gigabytes: float) -> Iterator[Case]:
    halves, wholes = torch.bfloat16, torch.float32
    for suffix, dtype, size in (
        (".safetensors", halves, gigabytes),
        (".pt", wholes, gigabytes),
        (".safetensors", wholes, gigabytes / 4),
        (".pt", halves, gigabytes / 4),
    ):
        yield Case(suffix, dtype, transformer(size * 1e9 / dtype.itemsize))
    for dtype in (wholes, halves):
        small = transformer(gigabytes / 8 * 1e9 / 3 / dtype.itemsize, WIDTH // 4, ENTRIES // 4)
        yield Case(".pt", dtype, small, with_adam=True)
    many = {f"layers.{number}.bias": (64,) for number in range(100_000)}
    yield Case(".safetensors", wholes, many)


def ran(work: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", work, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def put_out(path: Path) -> None:
    """Takes a file out of the system's memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compared(case: Case, path: Path, rounds: int, from_disk: bool) -> None:
    print(
        f"{case.name}: {len(case.shapes):,} weights, {case.bytes / 1e9:.2f} GB, the largest "
        f"{case.largest / 1e6:.2f} MB",
        flush=True,
    )
    found: dict[str, list[dict[str, float]]] = {work: [] for work in WORK}
    for _ in range(rounds):
        for work in WORK:
            found[work].append(ran(work, path))
    peaks = {work: max(each["peak"] for each in found[work]) for work in WORK}
    for work in WORK:
        middle = statistics.median(each["seconds"] for each in found[work])
        print(
            f"  {work:<5}{middle:>8.2f} s{case.bytes / 1e9 / middle:>7.1f} GB/s, peak memory "
            f"{peaks[work] / 1e6:,.0f} MB",
            flush=True,
        )
    pairs = list(zip(found["sum"], found["scan"], strict=True))
    ratios = (
        statistics.median(plain[unit] / scan[unit] for plain, scan in pairs)
        for unit in ("seconds", "busy")
    )
    limit = ALLOWED_TENSORS * case.largest + ALLOWED_BYTES
    print(
        "  the scan has {:.2f} of the rate of the sum ({:.2f} by the processor's time)".format(
            *ratios
        )
        + f"; its peak is {'below' if peaks['scan'] <= limit else 'ABOVE'} 1.5 x the largest "
        f"tensor + 500 MB = {limit / 1e6:,.0f} MB",
        flush=True,
    )
    if from_disk:
        seconds = {}
        for work in WORK:
            put_out(path)
            seconds[work] = ran(work, path)["seconds"]
        print(
            "  from disk:",
            *(f"{work} {case.bytes / 1e9 / seconds[work]:.2f} GB/s," for work in WORK),
            f"{seconds['sum'] / seconds['scan']:.2f} of the rate",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the two largest files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="numbers of files, from 0")
    parser.add_argument("--from-disk", action="store_true", help="one more round, on Linux")
    parser.add_argument("--folder", type=Path, help="on which disk; that of temporary files")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return
    print(f"torch {torch.__version__}, one thread")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        free = shutil.disk_usage(folder).free / 1e9
        if free < 1.1 * arguments.gigabytes:
            parser.error(
                f"{arguments.gigabytes} GB do not fit into {folder}, which has {free:.1f} GB free; "
                "choose another --folder or fewer --gigabytes"
            )
        for number, case in enumerate(cases(arguments.gigabytes)):
            if arguments.only and number not in arguments.only:
                continue
            if case.suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
                print(f"{case.name}: left out, as there is no safetensors to compare with")
                continue
            path = Path(folder) / f"model{case.suffix}"
            # What is written by this process would be in its memory.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(case.write, path).result()
            compared(case, path, arguments.rounds, arguments.from_disk)
            path.unlink()


if __name__ == "__main__":
    main()
