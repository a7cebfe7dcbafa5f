"""Subject -> Profile: passes batches through a model and measures what happens at every site."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from gradscope.batches import Batch, batch_size
from gradscope.checked import BuildOptimizer, backward, checked_step, make_optimizer, one_line
from gradscope.errors import GradscopeError, ModelError, UsageError
from gradscope.profile import statistics, updates
from gradscope.profile.observer import Observer
from gradscope.profile.preserve import preserved
from gradscope.records import ParameterProfile, Profile, Skipped, Source
from gradscope.subject import step_from_loss

__all__ = ["DEFAULT_STEPS", "profile", "profile_steps"]

DEFAULT_STEPS = 8
"""Enough for rules that ask for a fault in most steps, cheap enough for every scan."""

# Units are called dead or saturated over this many samples times positions; where the steps show
# fewer, further batches are passed forward, as far as there are any.
_OBSERVATIONS = 2000
_FURTHER_BATCHES = 64


def profile(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Batch], Tensor],
    *,
    optimizer: BuildOptimizer | None = None,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
) -> Profile:
    """Measures a model over a few steps and leaves no trace on it.

    Args:
        model: any module with parameters.
        batches: a tensor is passed as ``model(batch)``, a pair as ``model(batch[0])``, a mapping
            as ``model(**batch)``; samples are dimension 0. Fewer than ``steps`` are gone through
            again.
        loss: ``loss(output, batch)``, a scalar that averages over the batch.
        optimizer: makes an optimizer for the parameters given; with it the steps update a deep
            copy of the model, without it every step sees the same weights.
        steps: how many batches are passed.
        seed: the random number generators are set to it, and put back afterwards.

    Returns:
        The profile: per site and per step the forward and backward signal; per parameter its
        gradients, weights and actual updates.

    Raises:
        ModelError: the model, the data or the loss failed, or there is nothing to measure.
    """
    return profile_steps(
        model,
        batches,
        step_from_loss(loss),
        build_optimizer=optimizer,
        steps=steps,
        seed=seed,
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
) -> Profile:
    """As :func:`profile`, for a ``step(model, batch)`` that computes the loss by itself."""
    if steps < 1:
        raise UsageError(f"steps is {steps}; at least one batch must be passed.")
    if any(isinstance(each, UninitializedParameter) for each in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has lazy layers without weights yet; pass one batch through "
            "it first, for instance at the end of build_model()."
        )
    if not any(True for _ in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has no parameters, so there is nothing to train; "
            "check that its layers are attributes of the module (or in an nn.ModuleList)."
        )
    skipped: list[Skipped] = []
    with torch.inference_mode(False), torch.enable_grad(), preserved(model, seed):
        subject = model
        if build_optimizer is None:
            skipped.append(Skipped("updates", "no optimizer was given"))
        else:
            try:
                subject = copy.deepcopy(model)
            except Exception as error:
                build_optimizer = None
                skipped.append(Skipped("updates", f"the model cannot be copied: {one_line(error)}"))
        if not subject.training:
            subject.train()
        return _measure(
            subject,
            _draw(batches),
            checked_step(step),
            None
            if build_optimizer is None
            else make_optimizer(build_optimizer, subject.parameters()),
            steps,
            seed,
            Source.SYNTHETIC if synthetic else Source.MEASURED,
            skipped,
        )


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


def _measure(
    model: nn.Module,
    batches: Iterator[Batch],
    step: Callable[..., Tensor],
    optimizer: Optimizer | None,
    steps: int,
    seed: int,
    source: Source,
    skipped: list[Skipped],
) -> Profile:
    named = list(model.named_parameters())
    before = statistics.to_floats([statistics.norm(parameter) for _, parameter in named])
    faulty = statistics.to_floats([statistics.nonfinite(parameter) for _, parameter in named])
    observer = Observer(model)
    losses: list[float] = []
    gradients: list[list[float | None]] = [[] for _ in named]
    ratios: list[list[float]] = [[] for _ in named]
    drawn = list(itertools.islice(batches, steps))
    for batch in itertools.islice(itertools.cycle(drawn), steps):
        model.zero_grad(set_to_none=True)
        with observer.step(batch_size(batch)):
            loss = step(model, batch)
            if loss.requires_grad:
                backward(loss, model)
        losses.append(float(loss.detach()))
        for series, norm in zip(gradients, _gradient_norms(named), strict=True):
            series.append(norm)
        if optimizer is not None:
            moved = updates.measured_update(optimizer, [parameter for _, parameter in named])
            for ratio, value in zip(ratios, statistics.to_floats(moved), strict=True):
                ratio.append(value)
    enough = observer.fewest_observations() >= _OBSERVATIONS
    for batch in itertools.islice(batches, 0 if enough else _FURTHER_BATCHES):
        with torch.no_grad(), observer.step(batch_size(batch), counting_only=True):
            step(model, batch)
        if observer.fewest_observations() >= _OBSERVATIONS:
            break
    sites = observer.profiles()
    if sites and all(site.shape[0] < 2 for site in sites):
        skipped.append(Skipped("variation", "the batches hold one sample each"))
    return Profile(
        source=source,
        batch_size=batch_size(drawn[0]),
        losses=tuple(losses),
        input_variation=tuple(observer.input_variation),
        sites=sites,
        parameters=tuple(
            ParameterProfile(
                name=name,
                shape=tuple(parameter.shape),
                trainable=parameter.requires_grad,
                reached=_owner(model, name) in observer.reached
                or any(norm is not None for norm in norms),
                weight_norm=weight,
                nonfinite=int(wrong),
                gradient_norm=tuple(norms),
                update_ratio=tuple(moved_by),
            )
            for (name, parameter), weight, wrong, norms, moved_by in zip(
                named, before, faulty, gradients, ratios, strict=True
            )
        ),
        optimizer=None if optimizer is None else type(optimizer).__name__,
        epsilon=None if optimizer is None else updates.epsilon_of(optimizer),
        seed=seed,
        skipped=tuple(skipped),
    )


def _gradient_norms(named: list[tuple[str, nn.Parameter]]) -> list[float | None]:
    """One norm for each parameter, None where it has no gradient."""
    present = [parameter.grad for _, parameter in named if parameter.grad is not None]
    norms = iter(
        statistics.to_floats(
            [
                statistics.norm(gradient.coalesce().values() if gradient.is_sparse else gradient)
                for gradient in present
            ]
        )
    )
    return [None if parameter.grad is None else next(norms) for _, parameter in named]


def _owner(model: nn.Module, parameter: str) -> str:
    """The module that runs with a parameter: its holder, or what holds a list of parameters."""
    name = parameter.rpartition(".")[0]
    while name and type(model.get_submodule(name)).forward is nn.Module.forward:
        name = name.rpartition(".")[0]
    return name
