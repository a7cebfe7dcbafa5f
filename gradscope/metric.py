"""The number that repairs are judged by."""

from __future__ import annotations

import itertools
import re

import torch
from torch import nn

from gradscope.checked import call, checked_step, no_batch
from gradscope.errors import ModelError
from gradscope.profile.preserve import preserved
from gradscope.subject import Subject

__all__ = ["evaluate", "higher_is_better"]

_LOSS_BATCHES = 16

# Where a metric's name has one of these words in it, less is better.
_LESS_IS_BETTER = {
    "bits",
    "bpb",
    "bpc",
    "brier",
    "cer",
    "cost",
    "crps",
    "deviation",
    "distance",
    "divergence",
    "ece",
    "fid",
    "kl",
    "mae",
    "mape",
    "mse",
    "nll",
    "perplexity",
    "ppl",
    "regret",
    "rmse",
    "wer",
}
_LESS_IS_BETTER_ENDINGS = ("loss", "error", "errors")


def higher_is_better(subject: Subject, metric: str) -> bool:
    """Whether the metric is one to be large: as the subject says, else as its name lets expect."""
    if subject.evaluate is not None and subject.higher_is_better is not None:
        return subject.higher_is_better
    words = re.findall("[a-z]+", metric.lower())
    return not any(
        word in _LESS_IS_BETTER or word.endswith(_LESS_IS_BETTER_ENDINGS) for word in words
    )


@torch.no_grad()
def evaluate(subject: Subject, model: nn.Module) -> tuple[str, float]:
    """The subject's first metric and its value; the mean loss of some batches without one.

    The model is in eval mode meanwhile, without gradients, and as it was afterwards.

    Raises:
        ModelError: ``evaluate`` failed or returned something else than numbers by name.
    """
    with preserved(model, seed=0):
        model.eval()
        if subject.evaluate is None:
            return "loss", _mean_loss(subject, model)
        metrics = call(subject.evaluate, model, where=f"evaluate() of {subject.name}")
        try:
            name, value = next(iter(metrics.items()))
            return str(name), float(value)
        except (AttributeError, StopIteration, TypeError, ValueError) as error:
            raise ModelError(
                f"evaluate() of {subject.name} must return numbers by name, such as "
                f"{{'accuracy': 0.9}}; it returned {metrics!r:.80}."
            ) from error


def _mean_loss(subject: Subject, model: nn.Module) -> float:
    step = checked_step(subject.step)
    losses = [
        float(step(model, batch)) for batch in itertools.islice(subject.data(), _LOSS_BATCHES)
    ]
    if not losses:
        raise no_batch(subject.name)
    return sum(losses) / len(losses)
