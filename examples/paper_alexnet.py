"""The paper's CIFAR-100 experiment: AlexNet and a deeper one, with and without its derivatives.

Hu, Zhang, Ge, "Handling Vanishing Gradient Problem Using Artificial Derivative", section III.C:
AlexNet with ReLU (figure 7) and with sigmoid (figure 8), extended AlexNet with ReLU (figure 9), of
which it says that ReLU failed every training while AD ReLU trains. To its two arms selective AD
ReLU is added, of the same k, where only dead units get the artificial derivative. All arms of an
initialisation and a seed start from the same weights and see the same batches. The paper's own
accuracies are curves in its figures, without numbers to set beside.

    python examples/paper_alexnet.py
    python examples/paper_alexnet.py --figures 9 --epochs 8 --initialisation he
    python examples/paper_alexnet.py --full --cifar100 cifar-100-python --json run.json

Without ``--cifar100`` it trains on Fashion-MNIST (padded to 32 x 32, three equal channels), which
has 10 classes and is far easier: that can show whether a network trains at all, but not the paper's
accuracies. Without ``--full`` the schedule is shorter, too.

The paper gives the optimizers, the initialisations, batches of 200 and 300 epochs (table 5). It
leaves open, beside what ``alexnet.py`` says of the networks, and here is chosen:

- learning rates, constant, without momentum or weight decay: 0.05 for SGD, 0.001 for Adam.
- initialisation for figure 9: PyTorch's default beside He's.
- k of AD ReLU: 3.5, which the paper says of its first experiment only.
- no augmentation; pixels are normalised by each channel's mean and standard deviation.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import SubjectError
from gradscope.examples.experiments.alexnet import (
    ALEXNET,
    EXTENDED,
    Network,
    build_model,
    initialise,
)
from gradscope.examples.experiments.colour_images import prepared
from gradscope.examples.experiments.command_line import (
    add_options,
    all_of,
    command,
    finish,
    natural,
    positive,
)
from gradscope.examples.experiments.results import Run, Table, mean, standard_error
from gradscope.examples.fashion_mnist import Batches
from gradscope.patch import replace_derivative

BATCH_SIZE = 200

MARGIN = 0.05
"""A training counts as one that trained if its accuracy ends this much above chance."""

SHORT = {"epochs": 3, "images": 6000, "seeds": 1}
"""Under ten minutes on two cores."""

FULL = {"epochs": 300, "images": 0, "seeds": 5}
"""Table 5, and "5 independent training"; 0 images are all."""


@dataclass(frozen=True)
class Arm:
    name: str
    activation: type[nn.Module]
    derivative: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


AD_RELU = {"k": 3.5, "selective": False}
SELECTIVE = {"k": 3.5, "selective": True}
RELUS = (
    Arm("ReLU", nn.ReLU),
    Arm("AD ReLU", nn.ReLU, "relu-logistic", AD_RELU),
    Arm("selective AD ReLU", nn.ReLU, "relu-logistic", SELECTIVE),
)
SIGMOIDS = (Arm("sigmoid", nn.Sigmoid), Arm("AD sigmoid", nn.Sigmoid, "sigmoid-min"))


@dataclass(frozen=True)
class Figure:
    """One of the paper's; ``initialisations`` are those that are tried if none is asked for."""

    name: str
    network: Network
    arms: tuple[Arm, ...]
    initialisations: tuple[str, ...]


FIGURES = {
    7: Figure("AlexNet", ALEXNET, RELUS, ("he",)),
    8: Figure("AlexNet", ALEXNET, SIGMOIDS, ("xavier",)),
    9: Figure("extended AlexNet", EXTENDED, RELUS, ("he", "default")),
}


@dataclass(frozen=True)
class Schedule:
    """What all trainings of a run have in common; ``images`` 0 are all."""

    epochs: int
    images: int
    seeds: int
    lr_sgd: float
    lr_adam: float
    device: str
    cifar100: Path | None = None


def start(figure: int, arm: Arm, scheme: str, seed: int, classes: int) -> nn.Sequential:
    """An arm's network before training, with the weights that all arms have."""
    torch.manual_seed(seed)
    model = build_model(FIGURES[figure].network, classes, arm.activation)
    initialise(model, scheme)
    if arm.derivative is not None:
        replace_derivative(model, arm.derivative, **arm.parameters)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images whose largest logit is at their label."""
    pairs = zip(images.split(1000), labels.split(1000), strict=True)
    right = sum(int((model(part).argmax(dim=1) == truth).sum()) for part, truth in pairs)
    return right / len(labels)


@torch.no_grad()
def dead_share(model: nn.Module, images: Tensor) -> float | None:
    """Share of the ReLUs' units, a channel each, that are zero on all images at all places."""
    dead: list[Tensor] = []

    def note(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        dead.append(output.amax(dim=(0, 2, 3)) <= 0)

    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [module.register_forward_hook(note) for module in relus]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return round(float(torch.cat(dead).float().mean()), 4) if dead else None


def train(figure: int, arm: Arm, scheme: str, seed: int, schedule: Schedule) -> dict[str, Any]:
    """One training.

    Returns:
        Which one it is; ``data``, ``classes``, and the ``epochs`` and ``updates`` it was to make;
        the test ``accuracy`` after and the mean ``loss`` in each epoch, of which the one where the
        loss is no number is the last; whether it ``diverged`` so; ``dead_start`` and ``dead_end``
        (see :func:`dead_share`); the ``seconds`` of training and testing.
    """
    torch.set_num_threads(1)
    data = prepared(schedule.cifar100, schedule.images, schedule.device)
    model = start(figure, arm, scheme, seed, data.classes).to(schedule.device)
    optimizer: torch.optim.Optimizer
    if arm.activation is nn.ReLU:
        optimizer = torch.optim.SGD(model.parameters(), lr=schedule.lr_sgd)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr_adam)
    batches = Batches(data.train_images, data.train_labels, BATCH_SIZE)
    probe = data.train_images[:BATCH_SIZE]
    dead_start = dead_share(model, probe)
    accuracies: list[float] = []
    losses: list[float] = []
    diverged = False
    # How many numbers were drawn so far depends on the initialisation; the order must not.
    torch.manual_seed(seed)
    begin = time.perf_counter()
    while len(losses) < schedule.epochs and not diverged:
        seen: list[Tensor] = []
        for images, labels in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        losses.append(round(float(torch.stack(seen).mean()), 4))
        accuracies.append(round(accuracy(model, data.test_images, data.test_labels), 4))
        diverged = not math.isfinite(losses[-1])
    seconds = round(time.perf_counter() - begin, 1)
    return {
        "figure": figure,
        "network": FIGURES[figure].name,
        "arm": arm.name,
        "initialisation": scheme,
        "seed": seed,
        "data": data.name,
        "classes": data.classes,
        "epochs": schedule.epochs,
        "updates": schedule.epochs * len(batches),
        "accuracy": accuracies,
        "loss": losses,
        "diverged": diverged,
        "dead_start": dead_start,
        "dead_end": None if diverged else dead_share(model, probe),
        "seconds": seconds,
    }


def tables(run: Run) -> list[Table]:
    """One for each figure, with a row for each initialisation and arm."""
    figures = dict.fromkeys(entry["figure"] for entry in run.results)
    return [
        _table(
            figure,
            [entry for entry in run.results if entry["figure"] == figure],
            f"{run.settings['images']:,} images of {run.settings['data']}",
        )
        for figure in figures
    ]


def _table(figure: int, entries: Sequence[dict[str, Any]], data: str) -> Table:
    first = entries[0]
    rows: list[list[str]] = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["initialisation"], entry["arm"]), []).append(entry)
    for (scheme, arm), mine in groups.items():
        final = [entry["accuracy"][-1] for entry in mine]
        error = f" ± {standard_error(final):.1%}" if len(final) > 1 else ""
        diverged = sum(entry["diverged"] for entry in mine)
        rows.append(
            [
                f"{arm}, {scheme}",
                f"{mean(final):.1%}{error}",
                f"{mean([max(entry['accuracy']) for entry in mine]):.1%}",
                _share([entry["dead_start"] for entry in mine]),
                _share([entry["dead_end"] for entry in mine]),
                f"{sum(map(_trained, mine))} of {len(mine)}"
                + (f", {diverged} diverged" if diverged else ""),
            ]
        )
    length = f"{_count(first['epochs'], 'epoch')} ({_count(first['updates'], 'update')})"
    seeds = _count(len({entry["seed"] for entry in entries}), "seed")
    notes = [
        f"Trained: ended more than {MARGIN * 100:.0f} points above chance, "
        f"which is {1 / first['classes']:.0%}."
    ]
    if FIGURES[figure].arms is RELUS:
        notes.append("Dead: ReLU's units, a channel each, that are zero on a whole batch.")
    if figure == 9:
        notes += [
            _claim(scheme, groups[scheme, "ReLU"], groups[scheme, "AD ReLU"], length)
            for scheme in dict.fromkeys(entry["initialisation"] for entry in entries)
        ]
    return Table(
        f"Figure {figure}: {first['network']}, {data}, {length}, {seeds}",
        (
            "activation, initialisation",
            "accuracy",
            "best",
            "dead at start",
            "dead at end",
            "trained",
        ),
        rows,
        " ".join(notes),
    )


def _claim(
    scheme: str, relu: Sequence[dict[str, Any]], ad: Sequence[dict[str, Any]], length: str
) -> str:
    """Whether what the paper says of its figure 9 was seen."""
    trained = sum(map(_trained, relu)), sum(map(_trained, ad))
    seen = "seen" if trained == (0, len(ad)) else "not seen"
    return (
        f"Initialisation {scheme}: ReLU trained {trained[0]} of {len(relu)} times and AD ReLU "
        f"{trained[1]} of {len(ad)} within {length}. That ReLU fails every training while AD ReLU "
        f"trains, as the paper says of 300 epochs on CIFAR-100, is {seen}."
    )


def _trained(entry: dict[str, Any]) -> bool:
    return not entry["diverged"] and entry["accuracy"][-1] > 1 / entry["classes"] + MARGIN


def _share(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return f"{mean(known):.1%}" if known else "–"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def listed(pattern: str) -> Callable[[str], list[str]]:
    """Reads what is separated by commas, if the pattern is that of each."""

    def read(text: str) -> list[str]:
        for part in text.split(","):
            if not re.fullmatch(pattern, part):
                raise argparse.ArgumentTypeError(f"there is no {part!r}")
        return list(dict.fromkeys(text.split(",")))

    return read


def rate(text: str) -> float:
    """A learning rate, as the type of an argument."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no learning rate")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--figures", type=listed("[789]"), default="7,8,9", help="of 7,8,9")
    schemes = listed(r"he|default|xavier|normal-\d*\.?\d+")
    words = "of he,default,xavier,normal-SIGMA; for each figure"
    parser.add_argument("--initialisation", type=schemes, help=words)
    parser.add_argument("--full", action="store_true", help="300 epochs, all images, 5 seeds")
    for name, value in SHORT.items():
        words = f"default {value}; 0 for all" if name == "images" else f"default {value}"
        kind = natural if name == "images" else positive
        parser.add_argument(f"--{name}", type=kind, help=words)
    parser.add_argument("--lr-sgd", type=rate, default=0.05, help="default %(default)s")
    parser.add_argument("--lr-adam", type=rate, default=1e-3, help="default %(default)s")
    parser.add_argument("--cifar100", type=Path, help="folder with CIFAR-100's train and test")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    add_options(parser)
    arguments = parser.parse_args()
    sizes = dict(FULL if arguments.full else SHORT)
    sizes |= {name: value for name in sizes if (value := getattr(arguments, name)) is not None}
    if 0 < sizes["images"] < BATCH_SIZE:
        parser.error(f"--images is {sizes['images']}, but must be at least {BATCH_SIZE}")
    if arguments.device == "cuda" and not cuda:
        parser.error("torch finds no CUDA device")
    rates = {"lr_sgd": arguments.lr_sgd, "lr_adam": arguments.lr_adam}
    schedule = Schedule(**sizes, **rates, device=arguments.device, cifar100=arguments.cifar100)
    try:
        data = prepared(schedule.cifar100, schedule.images, "cpu")
    except SubjectError as error:
        parser.error(str(error))
    calls = [
        (train, (figure, arm, scheme, seed, schedule))
        for figure in map(int, arguments.figures)
        for scheme in arguments.initialisation or FIGURES[figure].initialisations
        for seed in range(sizes["seeds"])
        for arm in FIGURES[figure].arms
    ]
    results = all_of(calls, 1 if arguments.device == "cuda" else arguments.jobs, "training")
    images = {"images": len(data.train_images), "test_images": len(data.test_images)}
    settings = sizes | images | rates | {"batch_size": BATCH_SIZE, "data": data.name}
    settings["device"] = arguments.device
    made_by = command("examples/paper_alexnet.py", parser, arguments)
    finish(Run(made_by, settings, results), tables, arguments.json)


if __name__ == "__main__":
    main()
