"""What reading the numbers of a checkpoint costs: statistics of tensors in a mapped file.

Their rate stands beside that of ``tensor.sum()`` of the same, interleaved, each with a fresh
mapping of a file that the system has in memory; and the most memory that they take beyond the file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print where each profile starts and ends

import torch
from torch import Tensor

from gradscope.checkpoints.evidence.statistics import tensor_statistics

CASES = {
    "float32, one matrix": (torch.float32, (8192, -1)),
    "float32, rows of 768": (torch.float32, (768,)),
    "float32, one vector": (torch.float32, ()),
    "float32, 4 MB each": (torch.float32, (-1, 1024, 1024)),
    "float32, 1 MB each": (torch.float32, (-1, 512, 512)),
    "float32, 64 kB each": (torch.float32, (-1, 128, 128)),
    "bfloat16, one matrix": (torch.bfloat16, (16384, -1)),
    "bfloat16, 4 MB each": (torch.bfloat16, (-1, 1024, 2048)),
}


def written(path: Path, size: int, dtype: torch.dtype) -> Path:
    storage = torch.UntypedStorage.from_file(str(path), True, size)
    whole = torch.empty(0, dtype=dtype).set_(storage)
    for part in whole.split(1 << 22):
        part.copy_(torch.randn(len(part)) * 0.02)
    return path


def mapped(path: Path, size: int, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Tensor]:
    whole = torch.empty(0, dtype=dtype).set_(torch.UntypedStorage.from_file(str(path), False, size))
    if len(shape) == 1:
        return [whole[: len(whole) // shape[0] * shape[0]].view(-1, *shape)]
    if not shape:
        return [whole]
    return list(whole.view(shape)) if len(shape) == 3 else [whole.view(shape)]


def rates(size: int, rounds: int) -> None:
    runs: dict[str, Callable[[Tensor], object]] = {
        "sum": lambda tensor: float(tensor.sum()),
        "statistics": tensor_statistics,
        "without rank": lambda tensor: tensor_statistics(tensor, rank=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {
            dtype: written(Path(folder) / str(dtype), size, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        }
        for case, (dtype, shape) in CASES.items():
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(rounds):
                for name, run in runs.items():
                    tensors = mapped(files[dtype], size, dtype, shape)
                    start = time.perf_counter()
                    for tensor in tensors:
                        run(tensor)
                    times[name].append(time.perf_counter() - start)
            best = {name: min(each) for name, each in times.items()}
            print(
                f"  {case:<22}",
                *(
                    f"{name} {size / 1e9 / best[name]:5.1f} GB/s ({best['sum'] / best[name]:.2f})"
                    for name in runs
                ),
                flush=True,
            )
        (tensor,) = mapped(files[torch.float32], size, torch.float32, (8192, -1))
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            tensor_statistics(tensor)
        held = most = 0
        for event in profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        print(f"  peak memory beyond the file: {most / 2**20:.1f} MiB of {size >> 20} MiB read")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="MB of the file that is read")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rates(arguments.size << 20, arguments.rounds)


if __name__ == "__main__":
    main()
