"""Networks whose checkpoints tell less than a run does, or something else, each with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from tests.benchmarks.cold_data import TEXT
from tests.benchmarks.cold_networks import (
    InBfloat16,
    Transformer,
    cnn,
    he,
    mlp,
    resnet,
    shifted,
)
from tests.benchmarks.cold_training import (
    Build,
    Case,
    adam,
    adamw,
    half_cosine,
    linear_to_zero,
    named,
    sgd,
    warm_up,
)


def _healthy(
    name: str, update: Build, build: Callable[[], nn.Module] = mlp, steps: int = 300
) -> Case:
    return Case(name, "healthy", build, update, steps=steps)


def _dead(
    name: str, update: Build, build: Callable[[], nn.Module] = lambda: shifted(he(3), 0.6, -9.0)
) -> Case:
    return Case(name, "dead", build, update, "GS201")


def _vanishing(
    name: str,
    update: Build,
    build: Callable[[], nn.Module] = lambda: mlp(nn.Sigmoid, hidden=10),
) -> Case:
    return Case(name, "vanishing", build, update, "GS101")


def _off_behind_norms() -> nn.Module:
    return shifted(cnn(normalised=True), 1.0, -6.0, [1])


def _reader(vocabulary: int) -> Callable[[], nn.Module]:
    return lambda: Transformer(vocabulary=vocabulary)


_TRAINED = _healthy("cnn, adam", adam(3e-3), cnn)
_READING = replace(_healthy("text, adamw", adamw(), _reader(96)), data=TEXT, samples=64)

_SHORT = adam(betas=(0.5, 0.9))

_BY_REASON = {
    "The means forget in 50 steps, the mean square in 1,000: who died since still looks alive.": [
        replace(_dead("killed 20 steps ago, adam", adam(), mlp), shocks=((280, 0.3),)),
        replace(_dead("80 % silenced 20 ago, adam", adam(), mlp), silenced=280),
        replace(_dead("80 % silenced 20 ago, sgd", sgd(), mlp), silenced=280),
        replace(_dead("80 % silenced 150 ago, adam", adam(), mlp), silenced=150),
    ],
    "No mean, but a mean square of 100 steps (RMSprop) or of all (Adagrad): early gradients "
    "stay.": [
        _healthy("healthy, rmsprop", named("RMSprop", 1e-3)),
        _healthy("healthy, adagrad", named("Adagrad", 1e-2)),
        _dead("60 % dead, rmsprop", named("RMSprop", 1e-3)),
        _dead("60 % dead, adagrad", named("Adagrad", 1e-2)),
        _vanishing("10 sigmoids, rmsprop", named("RMSprop", 1e-3)),
    ],
    "Mean squares of rows alone.": [
        _healthy("healthy, adafactor", named("Adafactor", 1e-2)),
        _dead("60 % dead, adafactor", named("Adafactor", 1e-2)),
    ],
    "No moments are stored: nothing tells.": [
        _dead("60 % dead, plain sgd", sgd(0.1, momentum=0.0)),
        replace(_dead("60 % dead, weights only", adam()), weights_only=True),
        _vanishing("10 sigmoids, plain sgd", sgd(0.1, momentum=0.0)),
    ],
    "Weight decay is in the moments and has to be taken out.": [
        _healthy("healthy, adam, decay 1e-2", adam(decay=1e-2)),
        _dead("60 % dead, adam, decay 1e-3", adam(decay=1e-3)),
        _dead("60 % dead, sgd, decay 5e-3", sgd(decay=5e-3)),
        _vanishing("10 sigmoids, sgd, decay 5e-4", sgd(decay=5e-4)),
    ],
    "A layer without a live unit cuts off those before it.": [
        _dead("layer 2 of 3 dead, sgd", sgd(), lambda: shifted(he(3), 1.0, -5.0, [1])),
        _dead("shifts of -6, sgd, decay 5e-4", sgd(decay=5e-4), _off_behind_norms),
    ],
    "Shift and scale of a BatchNorm tell of its own channels alone.": [
        replace(_dead("shifts of -6, weights only", adamw(), _off_behind_norms), weights_only=True),
    ],
    "The input dies on its way, too.": [
        _vanishing("10 small tanh, sgd", sgd(), lambda: mlp(nn.Tanh, hidden=10, gain=0.1)),
    ],
    "One batch is remembered for thousands of steps.": [
        replace(_healthy("a bad batch, adam", adam()), spoiled=(200, 1e3)),
        replace(_healthy("a bad batch, cnn, adamw", adamw(), cnn), spoiled=(200, 1e4)),
    ],
    "Units that fire rarely are forgotten between two times.": [
        _healthy("betas of 0.5 and 0.9", _SHORT),
        replace(_healthy("betas of 0.5 and 0.9, batches of 4", _SHORT), batch=4),
        replace(_healthy("batches of 1, sgd", sgd(1e-3), steps=2000), batch=1),
    ],
    "Gradients, updates or precision are small, and nothing is wrong.": [
        replace(_healthy("clipped to 1e-3, sgd", sgd()), clip=1e-3),
        replace(_healthy("cosine to 0, adamw", adamw()), schedule=half_cosine),
        replace(_healthy("linear to 0, sgd", sgd(), cnn), schedule=linear_to_zero),
        _healthy("bfloat16, adamw", adamw(), lambda: InBfloat16(cnn())),
        _healthy("resnet, last norms of 0, sgd", sgd(decay=5e-4), resnet, 200),
        replace(_healthy("tuned at 1e-6, adamw", adamw(1e-6), cnn), first=_TRAINED),
        replace(_healthy("tuned, half frozen, adamw", adamw(1e-4), cnn), first=_TRAINED, freeze=4),
        replace(
            _healthy("text, tuned at 1e-5, sgd", sgd(1e-5), _reader(96)),
            data=TEXT,
            first=_READING,
            samples=64,
        ),
    ],
    "Most rows of its table never come, and no name says that it is one.": [
        replace(
            _healthy("text, rare tokens, adamw", adamw(), _reader(960)),
            data=TEXT,
            clip=1.0,
            schedule=warm_up,
            samples=64,
        ),
    ],
    "It has no ReLU.": [
        replace(
            _healthy("GELU transformer, adamw", adamw(), lambda: Transformer(nn.GELU), 200),
            batch=32,
            samples=64,
        ),
    ],
}

HARD = [replace(case, why=why) for why, cases in _BY_REASON.items() for case in cases]
"""In the order of their reasons."""
