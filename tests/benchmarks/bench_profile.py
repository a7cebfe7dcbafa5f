"""What a profile costs: time and peak memory of a profiled step over those of a plain one.

A plain step is ``zero_grad``, forward, loss and backward. Three things are held against such steps,
each interleaved with them in one run, and the median of the rounds' ratios is printed:

- observed step: the same inside ``Observer.step()``, which is what one more step adds to a profile.
  For its time the observer has seen two steps before. For its memory it takes its first two, of
  which the second is looked at for its rank too, as the last step of a profile is.
- profile: a whole ``gradscope.profile`` of {STEPS} steps over {STEPS} plain steps. Besides the
  observed steps it contains noting and putting back the model's state, the norms of parameters
  and gradients, and the gradient noise: {STEPS} more forward and backward passes, by halves of the
  batch. No further batches are passed for counting, as the data hold no more than {STEPS}.
- profile with an optimizer: the same, which now copies the model and measures updates, over making
  the optimizer and {STEPS} plain steps that update the model.

Peak memory is exact, and not what the operating system sees: all allocations and releases of
tensors' memory in order (on CPU the memory events of torch's profiler, on CUDA
``max_memory_allocated``), the highest running total, and on top what stands before: parameters,
buffers and one batch. Runs begin without gradients and without state of an optimizer. So it
contains gradients, activations, temporary buffers inside operators, an optimizer's state, copies,
and what an observer keeps from step to step; not Python objects, nor memory that libraries take
without asking torch.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print where each profile starts and ends

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.profiler import ProfilerActivity

import gradscope
from gradscope.profile.exchange import Exchange
from gradscope.profile.observer import Observer

STEPS = 4

Batch = tuple[Tensor, Tensor]
Run = Callable[[], None]
Build = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


# --- Models -----------------------------------------------------------------------------------


def mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([256, *[512] * 6]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def wide_mlp() -> nn.Module:
    """Parameters outweigh activations by far."""
    return nn.Sequential(
        nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096)
    )


class BasicBlock(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or fan_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(fan_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        result: Tensor = self.relu(out)
        return result


def resnet18() -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    stages = [
        nn.Sequential(BasicBlock(fan_in, width, stride), BasicBlock(width, width, 1))
        for fan_in, width, stride in widths
    ]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *stages, *end)


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in self.qkv(self.ln1(x)).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.ln2(x))
        return result


class Gpt(nn.Module):
    def __init__(self, vocabulary: int = 5000, width: int = 256, length: int = 128) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(GptBlock(width, 4) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.tokens(tokens) + self.positions(places))
        result: Tensor = self.head(self.norm(x)).flatten(0, 1)
        return result


@dataclass(frozen=True)
class Subject:
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    classes: int
    optimizer: Build
    tokens: bool = False

    def batch(self) -> Batch:
        """Tokens are their own targets."""
        if self.tokens:
            x = torch.randint(self.classes, self.inputs)
            return x, x.flatten()
        return torch.randn(self.inputs), torch.randint(self.classes, self.inputs[:1])


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-4)


SUBJECTS = {
    "mlp": Subject(mlp, (512, 256), 10, momentum),
    "resnet-18": Subject(resnet18, (16, 3, 64, 64), 100, momentum),
    "gpt": Subject(Gpt, (4, 128), 5000, adam, tokens=True),
    "wide-mlp": Subject(wide_mlp, (16, 4096), 4096, adam),
}


def loss(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(output, batch[1])


# --- Measuring --------------------------------------------------------------------------------


def seconds(run: Run) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratio_of_seconds(run: Run, plain: Run, rounds: int) -> tuple[float, float]:
    """The median of the rounds' ratios, and the plain run's median."""
    ratios, whole = [], []
    for number in range(rounds):
        # Who goes first alternates: the second finds the caches as the first left them.
        order = (run, plain) if number % 2 else (plain, run)
        times = {each: seconds(each) for each in order}
        ratios.append(times[run] / times[plain])
        whole.append(times[plain])
    return statistics.median(ratios), statistics.median(whole)


def peak(run: Run) -> int:
    """The most bytes of tensors that a run holds at a time beyond those there were before."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    traced = profiler.profiler.kineto_results.events()
    changes = sorted(
        ((each.start_ns(), each.nbytes()) for each in traced if each.name() == "[memory]"),
        key=lambda change: change[0],
    )
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def standing(model: nn.Module, batch: Batch) -> int:
    tensors = [*model.parameters(), *model.buffers(), *batch]
    return sum(each.numel() * each.element_size() for each in tensors)


# --- What is compared -------------------------------------------------------------------------


def compared(name: str, rounds: int) -> None:
    subject = SUBJECTS[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = subject.build().to(device)
    batches = [tuple(each.to(device) for each in subject.batch()) for _ in range(STEPS)]
    before = standing(model, batches[0])

    def plain(count: int, build: Build | None = None) -> None:
        optimizer = None if build is None else build(model.parameters())
        for batch in batches[:count]:
            model.zero_grad(set_to_none=True)
            loss(model(batch[0]), batch).backward()
            if optimizer is not None:
                optimizer.step()

    def observed(observer: Observer, count: int, last: bool = False) -> None:
        for number, batch in enumerate(batches[:count]):
            model.zero_grad(set_to_none=True)
            with observer.step(batch, len(batch[0]), last=last and number == count - 1):
                value = loss(model(batch[0]), batch)
                observer.examine(value)
                value.backward()
            observer.close(exchange.total(observer.packet))

    def profiled(build: Build | None = None) -> None:
        gradscope.profile(model, batches, loss, optimizer=build, steps=STEPS)

    def row(what: str, timed: tuple[Run, Run], kept: tuple[Run, Run], rounds: int) -> float:
        ratio, seconds_plain = ratio_of_seconds(*timed, rounds)
        peaks = []
        for run in kept:
            model.zero_grad(set_to_none=True)
            peaks.append(before + peak(run))
        times = f"{ratio:>7.2f}x time{peaks[0] / peaks[1]:>7.2f}x peak memory"
        print(f"    {what:<22}{times} of {peaks[1] / 2**20:.0f} MiB", flush=True)
        return seconds_plain

    elements = sum(each.numel() for each in model.parameters())
    print(f"{name}: {elements / 1e6:.1f} M parameters, input {'x'.join(map(str, subject.inputs))}")
    exchange = Exchange(model)
    observer = Observer(model, exchange)
    observed(observer, 2)
    one = row(
        "observed step",
        (lambda: observed(observer, 1), lambda: plain(1)),
        (lambda: observed(Observer(model, exchange), 2, last=True), lambda: plain(2)),
        rounds,
    )
    whole = (profiled, lambda: plain(STEPS))
    few = max(2, rounds // 3)
    row("profile", whole, whole, few)
    build = subject.optimizer
    whole = (lambda: profiled(build), lambda: plain(STEPS, build))
    row(f"profile with {build.__name__}", whole, whole, few)
    print(f"    a plain step takes {1e3 * one:.0f} ms")


def main() -> None:
    text = (__doc__ or "").replace("{STEPS}", str(STEPS))
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6, help="of single steps; whole: a third")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in arguments.models:
        compared(name, arguments.rounds)


if __name__ == "__main__":
    main()
