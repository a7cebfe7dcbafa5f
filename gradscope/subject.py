"""What is examined: a model that can be built again and again, batches, a loss, an optimizer.

A subject file is a Python file with

    build_model() -> nn.Module
    build_data() -> an iterable of batches
    loss(output, batch) -> scalar tensor

and optionally ``build_optimizer(parameters)`` and ``evaluate(model) -> dict of numbers``. A batch
that is a tensor is passed as ``model(batch)``, a pair ``(inputs, targets)`` as ``model(inputs)``,
a mapping as ``model(**batch)``; whoever needs anything else writes ``step(model, batch) -> scalar
loss`` instead of ``loss``. Without ``build_data`` a scan makes up inputs, and a loss with them;
without ``loss`` the model's own is used, where its output carries one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from gradscope.batches import Batch, call_model, data_on, own_loss
from gradscope.checked import BuildOptimizer, call, checked_loss, one_line
from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.errors import ModelError, SubjectError, UsageError
from gradscope.randomness import preserved_randomness
from gradscope.records import Skipped

__all__ = ["Subject", "own_loss_step", "step_from_loss"]


@dataclass(frozen=True)
class Subject:
    """A model that can be built again and again, with all it takes to train it.

    Attributes:
        name: how the user named it.
        build_model: makes a model; a fresh one for each set of weights.
        build_data: makes an iterable of batches, or None where there is no data.
        step: passes one batch forward and returns the scalar loss.
        build_optimizer: makes the optimizer, or None.
        evaluate: measures a trained model: numbers by name, the first is what repairs are judged
            by; or None.
        synthetic: whether the batches are made up.
        higher_is_better: direction of that first number; None to tell it from its name.
        live: the user's own model that is copied, to be left as it is; or None.
        kind: ``subject file``, ``model factory``, ``live model``, ``Hugging Face folder``, or
            what a checkpoint is and whose models it is put into.
        checkpoint: what else is known of the model's training; it is looked at where batches are
            made up, which tell less.
        skipped: what was left out when the subject was put together, and why.
    """

    name: str
    build_model: Callable[[], nn.Module]
    build_data: Callable[[], Iterable[Batch]] | None
    step: Callable[[nn.Module, Batch], Tensor]
    build_optimizer: BuildOptimizer | None = None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    synthetic: bool = False
    higher_is_better: bool | None = None
    live: nn.Module | None = None
    kind: str = "subject file"
    checkpoint: Checkpoint | None = None
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Iterable[Batch] | None,
        loss: Callable[[Any, Batch], Tensor],
        *,
        build_optimizer: BuildOptimizer | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        higher_is_better: bool | None = None,
        name: str | None = None,
    ) -> Subject:
        """A subject around a model that is already there; the model itself is never touched.

        Args:
            model: deep-copied whenever a model is needed.
            batches: can be iterated again for each training; None where there is no data: a scan
                then makes up inputs, and a loss that needs no targets.
            loss: ``loss(output, batch)``, a scalar.
            build_optimizer: makes an optimizer for the parameters given.
            evaluate: as of a subject file.
            higher_is_better: direction of its first number; None to tell it from its name.
            name: for reports; the model's class name without one.
        """

        def build_model() -> nn.Module:
            try:
                return copy.deepcopy(model)
            except Exception as error:
                raise ModelError(
                    f"{type(model).__name__} cannot be copied ({one_line(error)}); drop what it "
                    "keeps from a forward pass, or give a Subject whose build_model() builds it."
                ) from error

        drawn = False

        def build_data() -> Iterable[Batch]:
            nonlocal drawn
            if drawn and isinstance(batches, Iterator):
                raise UsageError(
                    f"The batches of {type(model).__name__} are a {type(batches).__name__}, an "
                    "iterator that is spent after one pass, and trials go through them again and "
                    "again; give a list or a DataLoader."
                )
            drawn = True
            return batches  # type: ignore[return-value]

        return cls(
            name=name or type(model).__name__,
            build_model=build_model,
            build_data=None if batches is None else build_data,
            step=step_from_loss(loss),
            build_optimizer=build_optimizer,
            evaluate=evaluate,
            higher_is_better=higher_is_better,
            live=model,
            kind="live model",
        )

    def on(self, device: str | torch.device) -> Subject:
        """The same subject with its models and batches on ``device``."""
        build_data = self.build_data
        return replace(
            self,
            build_model=lambda: self.build_model().to(device),
            build_data=None if build_data is None else lambda: data_on(build_data(), device),
        )

    def data(self) -> Iterable[Batch]:
        """Fresh batches.

        Raises:
            SubjectError: there is no data.
            ModelError: ``build_data`` raised.
        """
        if self.build_data is None:
            raise SubjectError(
                f"{self.name} comes without data; give --data FILE.py:NAME, or --input-shape to "
                "examine it on random inputs."
            )
        data = call(self.build_data, where=f"build_data() of {self.name}")
        if _of_samples(data):
            raise SubjectError(
                f"build_data() of {self.name} returned a {type(data).__name__}, which holds single "
                "samples; wrap it: torch.utils.data.DataLoader(dataset, batch_size=64)."
            )
        return data


def _of_samples(data: Iterable[Batch]) -> bool:
    """Whether it is a dataset of pairs with one target each, which a loader makes batches of."""
    if not isinstance(data, Dataset) or isinstance(data, IterableDataset):
        return False
    with preserved_randomness():
        first = next(iter(data), None)
    target = first[1] if isinstance(first, (tuple, list)) and len(first) > 1 else None
    return isinstance(target, (int, float)) or (isinstance(target, Tensor) and target.ndim == 0)


def step_from_loss(
    loss: Callable[[Any, Batch], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    """The step that calls the model by convention and passes its output to ``loss``."""

    def step(model: nn.Module, batch: Batch) -> Tensor:
        return checked_loss(loss, call_model(model, batch), batch)

    return step


def own_loss_step(name: str) -> Callable[[nn.Module, Batch], Tensor]:
    """The step that takes the loss which the model's output carries.

    It raises SubjectError where there is none; ``name`` is what that calls the subject.
    """

    def step(model: nn.Module, batch: Batch) -> Tensor:
        loss = own_loss(call_model(model, batch))
        if loss is None:
            raise SubjectError(f"{name} comes without a loss; name one with --loss FILE.py:NAME.")
        return loss

    return step
