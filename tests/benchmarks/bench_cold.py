"""What reading a checkpoint costs, and how far its cold evidence is to be trusted.

- rates: the statistics of tensors in a mapped file against ``tensor.sum()`` of the same,
  interleaved, each with a fresh mapping of a file that the system has in memory; and the most
  memory that the statistics take beyond the file.
- truth: small networks are trained, some of them faulty, and what their optimizer's state and
  weights tell is held against what ``gradscope.profile`` measures on data: the share of dead units
  at each ReLU, and the backward signal at the first site over that at the last.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would print where each profile starts and ends

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradscope
from gradscope.checkpoints.checkpoint import Checkpoint, OptimizerState, StoredTensor
from gradscope.checkpoints.evidence import (
    batch_norm_evidence,
    first_over_last,
    gradient_evidence,
)
from gradscope.checkpoints.statistics import tensor_statistics
from gradscope.examples.fashion_mnist import SAMPLE, load_fashion_mnist
from gradscope.records import Profile, Role
from gradscope.rules.signal import backward_sites, finite_median
from gradscope.rules.signal import first_over_last as warm_first_over_last
from gradscope.stored import GradientEvidence

Batch = tuple[Tensor, Tensor]
Optimizer = torch.optim.Optimizer
Build = Callable[[Iterable[nn.Parameter]], Optimizer]


# --- Rates ------------------------------------------------------------------------------------

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


# --- Networks ---------------------------------------------------------------------------------


def mlp(
    activation: Callable[[], nn.Module] = nn.ReLU,
    hidden: int = 3,
    width: int = 64,
    gain: float | None = None,
) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(hidden):
        layer = nn.Linear(width if number else 784, width)
        if gain is not None:
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        layers += [layer, activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def he(hidden: int) -> nn.Module:
    return mlp(hidden=hidden, gain=math.sqrt(2))


def shifted(model: nn.Module, share: float, shift: float, layers: Iterable[int]) -> nn.Module:
    """The first units of some layers, counted among those with a bias, get that bias."""
    with_bias = [
        each for each in model.modules() if isinstance(getattr(each, "bias", None), Tensor)
    ]
    with torch.no_grad():
        for number in layers:
            bias = with_bias[number].bias
            bias[: round(share * len(bias))] = shift
    return model


def cnn(normalised: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((1, 8), (8, 16), (16, 32)):
        layers.append(nn.Conv2d(fan_in, fan_out, 3, 2, 1, bias=not normalised))
        layers += [nn.BatchNorm2d(fan_out)] if normalised else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        result: Tensor = self.relu2(x + inner)
        return result


def resnet() -> nn.Module:
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    pool = nn.MaxPool2d(2)
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*stem, pool, Block(16), Block(16), *end)


class Sequences(nn.Module):
    """Says for each token how many places back the same one was; half of the entries never come."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.position = nn.Parameter(torch.randn(16, 32) * 0.02)
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(32, 4, 64, 0.0, nn.ReLU(), batch_first=True)
                for _ in range(2)
            )
        )
        self.head = nn.Linear(32, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(self.embedding(tokens) + self.position)).flatten(
            0, 1
        )
        return result


def frozen(model: nn.Module) -> nn.Module:
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    return model


def sgd(lr: float = 0.05, decay: float = 0.0) -> Build:
    return lambda parameters: torch.optim.SGD(parameters, lr, 0.9, weight_decay=decay)


def adam(lr: float = 1e-3, decay: float = 0.0, eps: float = 1e-8) -> Build:
    return lambda parameters: torch.optim.Adam(parameters, lr, eps=eps, weight_decay=decay)


def adamw(lr: float = 1e-3, decay: float = 1e-2) -> Build:
    return lambda parameters: torch.optim.AdamW(parameters, lr, weight_decay=decay)


def named(kind: str, lr: float) -> Build:
    def build(parameters: Iterable[nn.Parameter]) -> Optimizer:
        made: Optimizer = getattr(torch.optim, kind)(parameters, lr=lr)
        return made

    return build


@dataclass(frozen=True)
class Case:
    """``shocks``: at these steps the learning rate is what is given, for that one step."""

    build: Callable[[], nn.Module]
    optimizer: Build
    steps: int = 300
    clip: float | None = None
    schedule: Callable[[float], float] | None = None
    shocks: tuple[tuple[int, float], ...] = ()
    silenced: int | None = None
    sequences: bool = False


def half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def warm_up(done: float) -> float:
    return min(1.0, done / 0.1)


NETWORKS = {
    "mlp, adam": Case(mlp, adam()),
    "mlp, sgd": Case(mlp, sgd()),
    "mlp, adam, 1500 steps": Case(mlp, adam(), steps=1500),
    "mlp, adamw, cosine to 0": Case(mlp, adamw(), schedule=half_cosine),
    "mlp, adam, decay 1e-2": Case(mlp, adam(decay=1e-2)),
    "mlp, sgd, decay 5e-3": Case(mlp, sgd(decay=5e-3)),
    "mlp, adam 1e-6": Case(mlp, adam(1e-6)),
    "mlp, sgd 1e-6": Case(mlp, sgd(1e-6)),
    "mlp, adam 0.03": Case(mlp, adam(0.03)),
    "mlp, adam 0.3": Case(mlp, adam(0.3)),
    "mlp, sgd 1": Case(mlp, sgd(1.0)),
    "mlp, sgd, clipped 1e-3": Case(mlp, sgd(), clip=1e-3),
    "mlp, adam, eps 1e-2": Case(mlp, adam(eps=1e-2)),
    "mlp, rmsprop": Case(mlp, named("RMSprop", 1e-3)),
    "mlp, adagrad": Case(mlp, named("Adagrad", 1e-2)),
    "mlp, nadam": Case(mlp, named("NAdam", 1e-3)),
    "mlp, adamax": Case(mlp, named("Adamax", 2e-3)),
    "mlp, adafactor": Case(mlp, named("Adafactor", 1e-2)),
    "he mlp of 10, adam": Case(lambda: he(10), adam()),
    "he mlp of 10, sgd": Case(lambda: he(10), sgd(0.01)),
    "cnn, adam": Case(cnn, adam(3e-3)),
    "cnn with norms, sgd": Case(lambda: cnn(True), sgd(decay=5e-4)),
    "cnn with norms, adamw": Case(lambda: cnn(True), adamw(3e-3)),
    "resnet, zero norms, sgd": Case(resnet, sgd(decay=5e-4), steps=200),
    "frozen half, adamw 1e-4": Case(lambda: frozen(cnn()), adamw(1e-4)),
    "transformer, adamw": Case(
        Sequences, adamw(), clip=1.0, schedule=warm_up, sequences=True, steps=200
    ),
    "biases -5, adam": Case(lambda: shifted(he(3), 1.0, -5.0, [1]), adam()),
    "biases -5, sgd": Case(lambda: shifted(he(3), 1.0, -5.0, [1]), sgd()),
    "60 % biases -9, adam": Case(lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), adam()),
    "60 % biases -9, sgd": Case(lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), sgd()),
    "60 % -9, adam, decay 1e-3": Case(
        lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), adam(decay=1e-3)
    ),
    "60 % -9, sgd, decay 5e-3": Case(lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), sgd(decay=5e-3)),
    "60 % -9, adamw, cosine": Case(
        lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), adamw(), schedule=half_cosine
    ),
    "60 % -9, rmsprop": Case(lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), named("RMSprop", 1e-3)),
    "60 % -9, adagrad": Case(lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), named("Adagrad", 1e-2)),
    "60 % -9, adafactor": Case(
        lambda: shifted(he(3), 0.6, -9.0, [0, 1, 2]), named("Adafactor", 1e-2)
    ),
    "killed at step 50, adam": Case(mlp, adam(), shocks=((50, 0.3),)),
    "killed at step 280, adam": Case(mlp, adam(), shocks=((280, 0.3),)),
    "killed at step 50, sgd": Case(mlp, sgd(), shocks=((50, 40.0),)),
    "80 % silenced 150 ago, adam": Case(mlp, adam(), silenced=150),
    "80 % silenced 20 ago, adam": Case(mlp, adam(), silenced=280),
    "80 % silenced 150 ago, sgd": Case(mlp, sgd(), silenced=150),
    "cnn, norms' shift -6, sgd": Case(lambda: shifted(cnn(True), 1.0, -6.0, [1]), sgd(decay=5e-4)),
    "cnn, norms' shift -6, adamw": Case(lambda: shifted(cnn(True), 1.0, -6.0, [1]), adamw()),
    "8 sigmoids, adam": Case(lambda: mlp(nn.Sigmoid, 8), adam()),
    "8 sigmoids, sgd": Case(lambda: mlp(nn.Sigmoid, 8), sgd()),
    "12 sigmoids, adamw": Case(lambda: mlp(nn.Sigmoid, 12), adamw()),
    "12 sigmoids, sgd, decay": Case(lambda: mlp(nn.Sigmoid, 12), sgd(decay=5e-4)),
    "8 small tanh, sgd": Case(lambda: mlp(nn.Tanh, 8, gain=0.1), sgd()),
    "8 small tanh, rmsprop 1e-6": Case(lambda: mlp(nn.Tanh, 8, gain=0.1), named("RMSprop", 1e-6)),
}


# --- Training ---------------------------------------------------------------------------------


def loss(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(output, batch[1].flatten())


def batches(case: Case, size: int = 64) -> Iterator[Batch]:
    if case.sequences:
        while True:
            tokens = torch.randint(32, (size, 16))
            yield tokens, tokens.roll(1, dims=1)
    data = load_fashion_mnist(SAMPLE)
    while True:
        chosen = torch.randint(len(data.train_images), (size,))
        yield data.train_images[chosen], data.train_labels[chosen]


def trained(case: Case) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(0)
    model = case.build()
    optimizer = case.optimizer(model.parameters())
    scheduler = None
    if case.schedule is not None:
        shape = case.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: shape(at / case.steps))
    shocks = dict(case.shocks)
    for step, batch in zip(range(case.steps), batches(case), strict=False):
        if step == case.silenced:
            shifted(model, 0.8, -100.0, [0, 1, 2])
        usual = optimizer.param_groups[0]["lr"]
        optimizer.param_groups[0]["lr"] = shocks.get(step, usual)
        optimizer.zero_grad()
        loss(model(batch[0]), batch).backward()
        if case.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = usual
        if scheduler is not None:
            scheduler.step()
    return model, optimizer


def stored(tensor: Tensor) -> StoredTensor:
    tensor = tensor.detach()
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def as_checkpoint(model: nn.Module, optimizer: Optimizer) -> Checkpoint:
    names = {parameter: name for name, parameter in model.named_parameters()}
    held = [(group, each) for group in optimizer.param_groups for each in group["params"]]
    settings = {
        names[each]: {key: value for key, value in group.items() if key != "params"}
        for group, each in held
    }
    state = {
        names[each]: {
            key: stored(value) if isinstance(value, Tensor) else value
            for key, value in optimizer.state[each].items()
        }
        for each in optimizer.state
    }
    return Checkpoint(
        name="live",
        form="live tensors",
        weights={name: stored(each) for name, each in model.state_dict().items()},
        optimizers=(OptimizerState(type(optimizer).__name__, settings, state, "by name"),),
    )


# --- Comparing --------------------------------------------------------------------------------


def dead_pairs(
    profile: Profile, evidence: dict[str, GradientEvidence]
) -> Iterator[tuple[str, float, float]]:
    """Name, cold and warm share of dead units at each ReLU."""
    before = ""
    for site in profile.sites:
        if site.role in (Role.LAYER, Role.NORMALISATION):
            before = site.module
        found = evidence.get(f"{before}.weight")
        if site.dead is None or found is None or found.inactive_rows is None:
            continue
        if found.shape[0] == site.units:
            yield site.name, found.inactive_rows, site.dead


def compared(name: str) -> dict[str, float]:
    case = NETWORKS[name]
    model, optimizer = trained(case)
    checkpoint = as_checkpoint(model, optimizer)
    evidence = gradient_evidence(checkpoint)
    told = {each.name: each for each in evidence}
    norms = batch_norm_evidence(checkpoint)
    torch.manual_seed(1)
    data = [batch for _, batch in zip(range(8), batches(case, 256), strict=False)]
    profile = gradscope.profile(model, data, loss)
    sites = backward_sites(profile)
    warm = finite_median(warm_first_over_last(sites)) if len(sites) > 1 else math.nan
    pairs = list(dead_pairs(profile, told))
    weights = [each for each in evidence if len(each.shape) > 1 and not each.embedding]
    updates = [each.update_ratio for each in weights if math.isfinite(each.update_ratio)]
    row = {
        "dead cold": max((cold for _, cold, _ in pairs), default=math.nan),
        "dead warm": max((seen for _, _, seen in pairs), default=math.nan),
        "apart": statistics.mean(abs(cold - seen) for _, cold, seen in pairs)
        if pairs
        else math.nan,
        "ratio cold": first_over_last(evidence),
        "of biases": first_over_last(evidence, biases=True),
        "ratio warm": warm,
        "update": statistics.median_low(updates) if updates else math.nan,
        "no gradient": float(
            sum(not each.has_state or each.gradient_rms == 0 for each in evidence)
        ),
        "norm off": max((each.off_channels for each in norms), default=math.nan),
        "loss": profile.losses[0],
    }
    print(f"  {name:<28}", *(f"{value:>11.3g}" for value in row.values()), end="  ")
    print(" ".join(f"{100 * cold:.0f}/{100 * seen:.0f}" for _, cold, seen in pairs), flush=True)
    return row


def truth(chosen: Iterable[str]) -> None:
    print(f"  {'network':<28}", *(f"{each:>11}" for each in HEADS), " dead cold/warm, %")
    rows = {name: compared(name) for name in chosen}
    apart = [row["apart"] for row in rows.values() if not math.isnan(row["apart"])]
    print(f"  dead shares are {100 * statistics.mean(apart):.1f} points apart, mean of networks")


HEADS = (
    *("dead cold", "dead warm", "apart", "ratio cold", "of biases", "ratio warm"),
    *("update", "no gradient", "norm off", "loss"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="MB of the file that is read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("rates", "truth"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if arguments.only != "truth":
        rates(arguments.size << 20, arguments.rounds)
    if arguments.only != "rates":
        truth(arguments.networks)


if __name__ == "__main__":
    main()
