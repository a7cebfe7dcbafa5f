"""The passes of a profile: the steps, batches that only count units, halves of batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.batches import Batch, batch_size
from gradscope.checked import backward
from gradscope.errors import ModelError
from gradscope.profile import statistics
from gradscope.profile.exchange import Exchange
from gradscope.profile.graph import leaves
from gradscope.profile.loss import of_all_processes
from gradscope.profile.noise import NOISE_BATCHES, gradient_noise
from gradscope.profile.observer import Observer
from gradscope.profile.parameters import Parameters, epsilon_of
from gradscope.profile.repeat import MODE_BATCHES, Repeats
from gradscope.profile.sharding import bare, local
from gradscope.records import GradientNoise, ModeLosses, Profile, Skipped, Source

__all__ = ["Run", "owner"]

# Units are called dead or saturated over this many samples times positions; where the steps show
# fewer, further batches are passed forward, as far as there are any.
_OBSERVATIONS = 2000
_FURTHER_BATCHES = 64


@dataclass(frozen=True)
class Run:
    """A model under observation, and what its steps are made of."""

    model: nn.Module
    step: Callable[[nn.Module, Batch], Tensor]
    optimizer: Optimizer | None
    loss_scale: float
    observer: Observer
    exchange: Exchange
    others: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    """Tensors beside the model that gradients flow to, such as a loss's own weights."""

    def profile(
        self,
        batches: Iterator[Batch],
        steps: int,
        seed: int,
        source: Source,
        skipped: list[Skipped],
    ) -> Profile:
        """Passes the batches; gradients stay on the model, and on ``others``."""
        observer, model = self.observer, self.model
        tracked = Parameters(bare(model), self.exchange)
        repeats = Repeats(self.step, model, self.exchange)
        drawn = list(itertools.islice(batches, steps))
        losses: list[float] = []
        losses_after: list[float] = []
        sizes: list[int] = []
        for number, batch in enumerate(itertools.islice(itertools.cycle(drawn), steps)):
            repeats.start()
            loss = self._pass(batch, tracked, last=number == steps - 1)
            targets = observer.loss_calls.close(float(loss))
            sizes.append(observer.samples)
            tracked.note_gradients(observer.packet)
            averaged = observer.reduction != "sum"
            weight = batch_size(batch) if averaged else 1
            found = {"before": loss * weight}
            if self.optimizer is not None:
                if not number:
                    repeats.check(batch, loss)
                tracked.update(self.optimizer, observer.packet, skip_nonfinite=self.loss_scale != 1)
                if not repeats.refusal:
                    found["after"] = repeats.after_update(batch) * weight
            observer.packet.sums["", "loss"] = found
            observer.packet.sums["", "targets"] = targets
            observer.packet.parts["", "loss"] = observer.packet.parts["", "targets"] = 1
            total = self.exchange.total(observer.packet)
            found = total.sums.pop(("", "loss"))
            observer.loss_calls.settle(total.sums.pop(("", "targets"), {}))
            samples = sizes[-1] if averaged else 1
            losses.append(float(found["before"]) / samples)
            if "after" in found:
                losses_after.append(float(found["after"]) / samples)
            tracked.close(total)
            observer.close(total)
        if repeats.refusal:
            skipped.append(Skipped("losses after updates", repeats.refusal))
        # Before further passes move running statistics on.
        modes = self._modes(repeats, drawn[:MODE_BATCHES], skipped)
        self._count_units(batches)
        noise = self._noise(drawn[:NOISE_BATCHES], tracked, skipped)
        loss_calls = self.exchange.gathered(observer.loss_calls.record())
        sites = observer.profiles()
        if sites and all(site.shape[0] < 2 for site in sites):
            skipped.append(Skipped("variation", "the batches hold one sample each"))
        return Profile(
            source=source,
            batch_size=sizes[0],
            losses=tuple(losses),
            input_variation=observer.ends.input_variation,
            sites=sites,
            parameters=tracked.profiles(self._takes_part),
            optimizer=None if self.optimizer is None else type(self.optimizer).__name__,
            epsilon=None if self.optimizer is None else epsilon_of(self.optimizer),
            seed=seed,
            skipped=(*skipped, *observer.skipped),
            reduction=observer.reduction or "mean",
            gradient_noise=noise,
            processes=self.exchange.processes,
            losses_after=tuple(losses_after),
            output_variation=observer.ends.output_variation,
            first_inputs=observer.first_inputs,
            loss_call=of_all_processes(loss_calls),
            clipping=tracked.clipping,
            modes=modes,
        )

    def _takes_part(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether the module that owns a parameter ran, and used it.

        Some parameters are there for another task, such as the token that stands for masked ones.
        FSDP2 has modules use whole parameters in place of their parts.
        """
        used = id(parameter) in self.observer.used or local(parameter) is not parameter
        return used and owner(bare(self.model), name) in self.observer.reached

    @staticmethod
    def _modes(repeats: Repeats, batches: list[Batch], skipped: list[Skipped]) -> ModeLosses | None:
        if repeats.refusal:
            return None
        try:
            return repeats.modes(batches)
        except ModelError as error:
            skipped.append(Skipped("loss in eval()", str(error).rstrip(".")))
            return None

    def leave_others(self) -> None:
        """Puts back what gradients the tensors beside the model had."""
        for tensor, gradient in self.others.values():
            tensor.grad = gradient

    def _pass(self, batch: Batch, tracked: Parameters, *, last: bool) -> Tensor:
        """One forward and backward pass; the loss, detached."""
        observer = self.observer
        tracked.clear()
        with observer.step(batch, batch_size(batch), last=last):
            loss = self.step(self.model, batch)
            if loss.requires_grad:
                observer.examine(loss)
                self._differentiate(loss, tracked)
        return loss.detach().to(statistics.wide(loss)).reshape(())

    def _differentiate(self, loss: Tensor, tracked: Parameters) -> None:
        """The backward pass, with the loss scaled and the gradients scaled back."""
        own = {id(parameter) for _, parameter in tracked.named}
        for tensor in leaves(loss.grad_fn):
            if id(tensor) not in own:
                self.others.setdefault(id(tensor), (tensor, tensor.grad))
                tensor.grad = None
        backward(loss * self.loss_scale if self.loss_scale != 1 else loss, self.model)
        if self.loss_scale != 1:
            for _, parameter in tracked.named:
                if parameter.grad is not None:
                    parameter.grad.div_(self.loss_scale)

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
        def squared_gradient(batch: Batch) -> float:
            tracked.clear()
            loss = self.step(self.model, batch)
            if not loss.requires_grad:
                raise ModelError("the loss depends on no parameter")
            self._differentiate(loss, tracked)
            squared = tracked.squared_gradient()
            tracked.clear()
            return squared

        try:
            return gradient_noise(
                squared_gradient,
                batches,
                self.exchange,
                known=tracked.squared_gradients if self.optimizer is None else (),
                summed=self.observer.reduction == "sum",
            )
        except ModelError as error:
            skipped.append(Skipped("gradient noise", str(error).rstrip(".")))
            return None


def owner(model: nn.Module, parameter: str) -> str:
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
