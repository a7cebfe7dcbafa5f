"""Subject -> Profile: passes batches through a model and measures what happens at every site."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.batches import Batch, batch_size, own_loss
from gradscope.checked import BuildOptimizer, checked_step, make_optimizer, refuse_lazy
from gradscope.errors import GradscopeError, ModelError, UsageError
from gradscope.inputs import inferred_batches, made_up_step
from gradscope.profile.exchange import Exchange
from gradscope.profile.observer import Observer
from gradscope.profile.preserve import preserved, preserved_weights
from gradscope.profile.run import Run
from gradscope.profile.sharding import bare
from gradscope.records import Profile, Skipped, Source
from gradscope.subject import step_from_loss

__all__ = ["DEFAULT_STEPS", "profile", "profile_steps"]

DEFAULT_STEPS = 8
"""Enough for rules that ask for a fault in most steps, cheap enough for every scan."""


def profile(
    model: nn.Module,
    batches: Iterable[Batch] | None = None,
    loss: Callable[[Any, Batch], Tensor] | None = None,
    *,
    optimizer: BuildOptimizer | None = None,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    loss_scale: float = 1.0,
    attention: bool = False,
) -> Profile:
    """Measures a model over a few steps and leaves no trace on it.

    Under DDP, FSDP2 or tensor parallelism every process calls it, with its own batches, and gets
    the profile of the whole.

    Args:
        model: any module with parameters.
        batches: a tensor is passed as ``model(batch)``, a pair as ``model(batch[0])``, a mapping
            as ``model(**batch)``; samples are dimension 0. Fewer than ``steps`` are gone through
            again. None: random inputs of a kind that the model takes, and the profile is marked
            ``synthetic``.
        loss: ``loss(output, batch)``, a scalar that averages (or sums) over the batch. None: the
            loss that the model returns, or on random inputs a fixed projection of the output.
        optimizer: makes an optimizer for the parameters given; with it the steps update a deep
            copy of the model (where it cannot be copied, itself, and its weights are put back),
            without it every step sees the same weights.
        steps: how many batches are passed.
        seed: the random number generators are set to it, and put back afterwards.
        loss_scale: what mixed precision multiplies the loss by, as ``GradScaler.get_scale()``
            says; the backward pass runs with it, and it is undone in every number.
        attention: whether the scores of fused attention are computed beside it, at the cost of
            what the fused kernel saves.

    Returns:
        The profile: per site and per step the forward and backward signal; per parameter its
        gradients, weights and actual updates.

    Raises:
        ModelError: the model, the data or the loss failed, or there is nothing to measure.
        UsageError: an argument is out of range.
    """
    synthetic = batches is None
    if batches is None:
        batches = inferred_batches(model)
    return profile_steps(
        model,
        batches,
        made_up_step if loss is None and synthetic else step_from_loss(loss or _returned_loss),
        build_optimizer=optimizer,
        steps=steps,
        seed=seed,
        synthetic=synthetic,
        loss_scale=loss_scale,
        attention=attention,
    )


def profile_steps(
    model: nn.Module,
    batches: Iterable[Batch],
    step: Callable[[nn.Module, Batch], Tensor],
    *,
    build_optimizer: BuildOptimizer | None = None,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    synthetic: bool = False,
    loss_scale: float = 1.0,
    attention: bool = False,
) -> Profile:
    """As :func:`profile`, for a ``step(model, batch)`` that computes the loss by itself."""
    if steps < 1:
        raise UsageError(f"steps is {steps}; at least one batch must be passed.")
    if not (loss_scale > 0 and math.isfinite(loss_scale)):
        raise UsageError(f"loss_scale is {loss_scale}; it must be a positive number.")
    _check(model)
    skipped: list[Skipped] = []
    with torch.inference_mode(False), torch.enable_grad(), preserved(model, seed), _eager():
        subject, optimizer = model, None
        weights: AbstractContextManager[None] = nullcontext()
        if build_optimizer is None:
            skipped.append(Skipped("updates", "no optimizer was given"))
        else:
            copied = _copied(model)
            trained = model if copied is None else copied
            optimizer = make_optimizer(build_optimizer, trained.parameters())
            if copied is None or _is_of(optimizer, model):
                # There is no copy, or the optimizer was not built from what it was given.
                weights = preserved_weights(model)
            else:
                subject = copied
        with weights:
            if not subject.training:
                subject.train()
            run = Run(
                subject,
                checked_step(step),
                optimizer,
                loss_scale,
                Observer(
                    bare(subject),
                    exchange := Exchange(subject),
                    fused_scores=attention,
                    loss_scale=loss_scale,
                ),
                exchange,
            )
            source = Source.SYNTHETIC if synthetic else Source.MEASURED
            try:
                return run.profile(_draw(batches), steps, seed, source, skipped)
            finally:
                run.leave_others()


def _copied(model: nn.Module) -> nn.Module | None:
    """A deep copy; None where there can be none that trains (FSDP2 forbids it, for one)."""
    try:
        copied = copy.deepcopy(model)
    except Exception:
        return None
    pairs = zip(model.parameters(), copied.parameters(), strict=True)
    # TorchScript copies parameters as if they were results.
    alike = all(two.is_leaf and one.requires_grad == two.requires_grad for one, two in pairs)
    return copied if alike else None


def _is_of(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether an optimizer updates parameters of that very model."""
    own = {id(parameter) for parameter in model.parameters()}
    return any(id(each) in own for group in optimizer.param_groups for each in group["params"])


def _check(model: nn.Module) -> None:
    """Refuses a model that cannot be trained as it is.

    Raises:
        ModelError: it has no weights, or none yet.
    """
    kind = type(model).__name__
    refuse_lazy(model)
    if not any(True for _ in model.parameters()):
        raise ModelError(
            f"{kind} has no parameters, so there is nothing to train; "
            "check that its layers are attributes of the module (or in an nn.ModuleList)."
        )
    if any(each.is_meta for each in model.parameters()):
        raise ModelError(
            f"{kind} has weights on the meta device, which hold no numbers; give it real ones, "
            "for instance with model.to_empty(device='cpu') and an initialisation."
        )


def _eager() -> AbstractContextManager[Any]:
    """Runs compiled code as it is written: what a compiler fuses cannot be watched."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _returned_loss(output: Any, batch: Batch) -> Tensor:
    """The loss that a model computes by itself.

    Raises:
        ModelError: it returned none.
    """
    found = own_loss(output)
    if found is None:
        raise ModelError(
            f"The model returned no loss (its output is a {type(output).__name__}); pass "
            "loss(output, batch), or batches with what it computes its own loss from."
        )
    return found


def _draw(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, with what their source raises turned into a ModelError that says so."""
    drawn = 0
    try:
        for batch in batches:
            if batch_size(batch) == 0:
                raise ModelError(
                    f"Batch {drawn} of the data holds no sample; give batches of at least two."
                )
            yield batch
            drawn += 1
    except GradscopeError:
        raise
    except Exception as error:
        raise ModelError(
            f"The data raised {type(error).__name__} at batch {drawn}: "
            f"{' '.join(str(error).split())}"
        ) from error
    if not drawn:
        raise ModelError("The data holds no batch; build_data() must yield at least one.")
