"""What a script trains, found when an optimizer steps that is not known yet."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.profile.sharding import bare
from gradscope.running.live import Live, parameters_of, survey
from gradscope.running.naming import names_of, variables
from gradscope.running.owners import models_of, outermost, owned_by

__all__ = ["Finder", "Found"]

# A script that makes an optimizer for every task of an inner loop is not followed for ever.
_MOST_OPTIMIZERS = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What is trained together.

    Attributes:
        models: by their names.
        optimizers: that train them.
        scaler: through which they step, if any.
    """

    models: dict[str, nn.Module]
    optimizers: tuple[Optimizer, ...]
    scaler: GradScaler | None = None

    def has(self, optimizer: Optimizer) -> bool:
        return any(each is optimizer for each in self.optimizers)


class Finder:
    """Remembers which modules were called and which optimizers have stepped.

    Args:
        wanted: name of a variable or a class: of all models, the one to find.

    Attributes:
        notes: what was passed over, and why.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self.notes: list[str] = []
        self._wanted = wanted
        self._called: dict[int, weakref.ref[nn.Module]] = {}
        self._met: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._passed_over: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._count = 0

    def called(self, module: nn.Module) -> None:
        """A module's forward has ended."""
        if id(module) not in self._called:
            self._called[id(module)] = weakref.ref(module)

    def forget_calls(self) -> None:
        self._called.clear()

    def find(self, optimizer: Optimizer, current: Found | None) -> Found | None:
        """What that optimizer, about to step, trains together with others.

        One that has stepped before returns to what is trained now. Any other begins something new:
        the next of several trainings, or a new optimizer for the same model.

        Returns:
            None when there is nothing in it to monitor, or nothing new.
        """
        if optimizer in self._passed_over:
            return None
        returns = optimizer in self._met
        self._met.add(optimizer)
        if not returns and self._count == _MOST_OPTIMIZERS:
            self._pass_over(
                optimizer, f"Only the first {_MOST_OPTIMIZERS} optimizers were followed."
            )
            return None
        self._count += not returns
        live = survey()
        known = () if current is None else tuple(current.models.values())
        called = [each for each in (ref() for ref in self._called.values()) if each is not None]
        chosen = None if self._wanted is None else self._chosen(called, live)

        def trained_by(each: Optimizer) -> list[nn.Module]:
            parameters = parameters_of(each)
            if chosen is not None:
                return [model for model in chosen if owned_by(model) & parameters]
            return models_of(parameters, [*known, *called], live.modules)

        models = trained_by(optimizer)
        if not models:
            missing = "No module" if self._wanted is None else f"No model {self._wanted}"
            self._pass_over(optimizer, f"{missing} owns what {type(optimizer).__name__} trains.")
            return None
        if returns and current is not None:
            group = [*current.optimizers, optimizer]
        elif current is None or len(current.optimizers) > 1:
            group = [optimizer, *self._partners(optimizer, live, called)]
        else:
            group = [optimizer]
        everything = [model for each in group for model in trained_by(each)]
        return self._found(everything, group, live.scaler_of(optimizer))

    def _found(
        self, models: list[nn.Module], group: list[Optimizer], scaler: GradScaler | None
    ) -> Found:
        models = outermost(models)
        names = names_of(models) if len(models) > 1 else [type(bare(models[0])).__name__]
        return Found(dict(zip(names, models, strict=True)), tuple(group), scaler)

    def _pass_over(self, optimizer: Optimizer, why: str) -> None:
        self._passed_over.add(optimizer)
        if why not in self.notes:
            self.notes.append(why)

    def _chosen(self, called: list[nn.Module], live: Live) -> list[nn.Module]:
        named = [
            value
            for name, value in variables()
            if name == self._wanted and issubclass(type(value), nn.Module)
        ]
        if not named:
            for modules in (called, live.modules):
                named = named or [each for each in modules if type(each).__name__ == self._wanted]
        return outermost(named)

    def _partners(
        self, optimizer: Optimizer, live: Live, called: list[nn.Module]
    ) -> list[Optimizer]:
        """Other optimizers that wait for their first step, as a GAN's second one does."""
        from gradscope.monitor.optimizers import bare_optimizer

        taken = parameters_of(optimizer)
        used = {parameter for module in called for parameter in owned_by(module)}
        partners = []
        for each in live.optimizers:
            each = bare_optimizer(each)
            trained = parameters_of(each)
            # What has not been called yet is for a later phase.
            early = bool(used) and not trained & used
            if each in self._met or early or not trained or trained & taken:
                continue
            taken |= trained
            partners.append(each)
        return partners
