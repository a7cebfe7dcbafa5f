"""Subject -> Profile: passes batches through a model and measures what happens at every site."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from gradscope.batches import Batch, batch_size, own_loss, tensors_in
from gradscope.checked import BuildOptimizer, backward, checked_step, make_optimizer
from gradscope.errors import GradscopeError, ModelError, UsageError
from gradscope.profile import statistics, updates
from gradscope.profile.exchange import Exchange, bare
from gradscope.profile.noise import NOISE_BATCHES, gradient_noise
from gradscope.profile.observer import Observer
from gradscope.profile.parameters import Parameters
from gradscope.profile.preserve import preserved, preserved_weights
from gradscope.records import GradientNoise, Profile, Skipped, Source
from gradscope.subject import step_from_loss
from gradscope.synthetic import inferred_batches, own_or_projected

__all__ = ["DEFAULT_STEPS", "profile", "profile_steps"]

DEFAULT_STEPS = 8
"""Enough for rules that ask for a fault in most steps, cheap enough for every scan."""

# Units are called dead or saturated over this many samples times positions; where the steps show
# fewer, further batches are passed forward, as far as there are any.
_OBSERVATIONS = 2000
_FURTHER_BATCHES = 64


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
        step_from_loss(loss or (_made_up_loss if synthetic else _returned_loss)),
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
        subject = model
        weights: AbstractContextManager[None] = nullcontext()
        if build_optimizer is None:
            skipped.append(Skipped("updates", "no optimizer was given"))
        else:
            try:
                subject = copy.deepcopy(model)
            except Exception:
                # FSDP2 forbids it, for one.
                weights = preserved_weights(model)
        with weights, _drawing(batches) as drawing:
            if not subject.training:
                subject.train()
            run = _Run(
                subject,
                checked_step(step),
                None
                if build_optimizer is None
                else make_optimizer(build_optimizer, subject.parameters()),
                loss_scale,
                Observer(
                    bare(subject),
                    exchange := Exchange(subject),
                    fused_scores=attention,
                    loss_scale=loss_scale,
                ),
                exchange,
            )
            return run.profile(
                drawing,
                steps,
                seed,
                Source.SYNTHETIC if synthetic else Source.MEASURED,
                skipped,
            )


def _check(model: nn.Module) -> None:
    """Refuses a model that cannot be trained as it is.

    Raises:
        ModelError: it has no weights, or none yet.
    """
    kind = type(model).__name__
    if any(isinstance(each, UninitializedParameter) for each in model.parameters()):
        raise ModelError(
            f"{kind} has lazy layers without weights yet; pass one batch through "
            "it first, for instance at the end of build_model()."
        )
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


def _made_up_loss(output: Any, batch: Batch) -> Tensor:
    return own_or_projected(output)


@contextmanager
def _drawing(batches: Iterable[Batch]) -> Iterator[Iterator[Batch]]:
    """The batches one by one; gradients that flow into them are taken off again at the end."""
    gradients: list[tuple[Tensor, Tensor | None]] = []
    try:
        yield _draw(batches, gradients)
    finally:
        for tensor, gradient in reversed(gradients):
            tensor.grad = gradient


def _draw(
    batches: Iterable[Batch], gradients: list[tuple[Tensor, Tensor | None]]
) -> Iterator[Batch]:
    """The batches, with what their source raises turned into a ModelError that says so.

    What gradients they have is taken off and noted.
    """
    drawn = 0
    try:
        for batch in batches:
            for tensor in tensors_in(batch):
                if tensor.is_leaf and tensor.requires_grad:
                    gradients.append((tensor, tensor.grad))
                    tensor.grad = None
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


@dataclass(frozen=True)
class _Run:
    """A model under observation, and what its steps are made of."""

    model: nn.Module
    step: Callable[[nn.Module, Batch], Tensor]
    optimizer: Optimizer | None
    loss_scale: float
    observer: Observer
    exchange: Exchange

    def profile(
        self,
        batches: Iterator[Batch],
        steps: int,
        seed: int,
        source: Source,
        skipped: list[Skipped],
    ) -> Profile:
        observer, model = self.observer, self.model
        tracked = Parameters(bare(model), self.exchange)
        drawn = list(itertools.islice(batches, steps))
        losses: list[float] = []
        sizes: list[int] = []
        for number, batch in enumerate(itertools.islice(itertools.cycle(drawn), steps)):
            loss = self._pass(batch, tracked, last=number == steps - 1)
            sizes.append(observer.samples)
            tracked.note_gradients(observer.packet)
            if self.optimizer is not None:
                tracked.update(self.optimizer, observer.packet, skip_nonfinite=self.loss_scale != 1)
            averaged = observer.reduction != "sum"
            weight = batch_size(batch) if averaged else 1
            observer.packet.sums["", "loss"] = {"loss": loss * weight}
            observer.packet.parts["", "loss"] = 1
            total = self.exchange.total(observer.packet)
            losses.append(
                float(total.sums.pop(("", "loss"))["loss"]) / (sizes[-1] if averaged else 1)
            )
            tracked.close(total)
            observer.close(total)
        self._count_units(batches)
        noise = self._noise(drawn[:NOISE_BATCHES], tracked, skipped)
        sites = observer.profiles()
        if sites and all(site.shape[0] < 2 for site in sites):
            skipped.append(Skipped("variation", "the batches hold one sample each"))
        return Profile(
            source=source,
            batch_size=sizes[0],
            losses=tuple(losses),
            input_variation=tuple(observer.input_variation),
            sites=sites,
            parameters=tracked.profiles(lambda name: _owner(bare(model), name) in observer.reached),
            optimizer=None if self.optimizer is None else type(self.optimizer).__name__,
            epsilon=None if self.optimizer is None else updates.epsilon_of(self.optimizer),
            seed=seed,
            skipped=(*skipped, *observer.skipped),
            reduction=observer.reduction or "mean",
            gradient_noise=noise,
            processes=self.exchange.processes,
        )

    def _pass(self, batch: Batch, tracked: Parameters, *, last: bool) -> Tensor:
        """One forward and backward pass; the loss, detached."""
        observer = self.observer
        tracked.clear()
        with observer.step(batch, batch_size(batch), last=last):
            loss = self.step(self.model, batch)
            if loss.requires_grad:
                observer.examine(loss)
                backward(loss * self.loss_scale if self.loss_scale != 1 else loss, self.model)
        if self.loss_scale != 1:
            for _, parameter in tracked.named:
                if parameter.grad is not None:
                    parameter.grad.div_(self.loss_scale)
        return loss.detach().to(statistics.wide(loss)).reshape(())

    def _count_units(self, batches: Iterator[Batch]) -> None:
        """Passes further batches until units have been seen often enough to be called dead."""
        observer = self.observer
        if observer.fewest_observations() >= _OBSERVATIONS:
            return
        for _ in range(_FURTHER_BATCHES):
            batch = next(batches, None)
            # One process must not go on where another has run out.
            if not self.exchange.everyone(batch is not None):
                return
            # With a graph: some models differentiate in their forward pass.
            with observer.step(batch, batch_size(batch), counting_only=True):
                self.step(self.model, batch)
            observer.close(self.exchange.total(observer.packet))
            if observer.fewest_observations() >= _OBSERVATIONS:
                return

    def _noise(
        self, batches: list[Batch], tracked: Parameters, skipped: list[Skipped]
    ) -> GradientNoise | None:
        try:
            return gradient_noise(
                self.model,
                self.step,
                batches,
                tracked,
                self.exchange,
                known=tracked.squared_gradients if self.optimizer is None else (),
                summed=self.observer.reduction == "sum",
            )
        except ModelError as error:
            skipped.append(Skipped("gradient noise", str(error).rstrip(".")))
            return None


def _owner(model: nn.Module, parameter: str) -> str:
    """The module that runs with a parameter: its holder, or what holds a list of parameters."""
    name = parameter.rpartition(".")[0]
    while name and _never_runs(model.get_submodule(name)):
        name = name.rpartition(".")[0]
    return name


def _never_runs(module: nn.Module) -> bool:
    """Whether it is a mere container; TorchScript hides the forward of its modules."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return type(module).forward is nn.Module.forward
