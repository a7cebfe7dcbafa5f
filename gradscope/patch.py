"""Plan -> Patch: carries out a plan on a model, all of it or nothing, and undoes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope import registry
from gradscope.checked import BuildOptimizer
from gradscope.errors import PlanError
from gradscope.profile.sharding import bare
from gradscope.randomness import preserved_randomness
from gradscope.records import Plan, Prescription
from gradscope.remedies import Training, Undo

__all__ = ["Patch", "apply"]


class Patch:
    """A plan that has been carried out on a model.

    ``undo()`` puts the model back exactly as it was; leaving a ``with`` block does too.

    Attributes:
        model: the patched model, the same object that was given.
        plan: what was carried out.
    """

    def __init__(self, model: nn.Module, plan: Plan, undos: Sequence[Undo]) -> None:
        self.model, self.plan = model, plan
        self._undos = list(undos)

    def undo(self) -> None:
        """Takes everything back, last change first. A second call does nothing."""
        while self._undos:
            self._undos.pop()()

    def training(self, training: Training) -> Training:
        """The training as the plan changes it."""
        for prescription in self.plan.prescriptions:
            training = registry.remedy(prescription.remedy).retrain(training, prescription)
        return training

    def build_optimizer(
        self, parameters: Iterable[nn.Parameter], original: BuildOptimizer | None = None
    ) -> Optimizer:
        """The optimizer that the plan prescribes.

        Args:
            parameters: to optimise, after patching: ``model.parameters()``.
            original: makes the optimizer where the plan prescribes none.

        Raises:
            PlanError: the plan prescribes no optimizer and no original is given.
        """

        def missing(_: Iterable[nn.Parameter]) -> Optimizer:
            raise PlanError("The plan prescribes no optimizer; give the original one's factory.")

        return self.training(Training(original or missing)).build_optimizer(parameters)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def apply(model: nn.Module, plan: Plan) -> Patch:
    """Carries out a plan's prescriptions on ``model``, in place and in order.

    Random numbers that a remedy draws are fixed by ``plan.seed``: on models with equal weights,
    equal plans give equal results. The global random state is left alone.

    Returns:
        The patch, which can be undone.

    Raises:
        PlanError: a prescription is unknown or does not fit the model, which is then unchanged.
    """
    undos: list[Undo] = []
    with preserved_randomness(plan.seed):
        try:
            for number, prescription in enumerate(plan.prescriptions, 1):
                undos.append(_apply_one(bare(model), prescription, number))
        except BaseException:
            while undos:
                undos.pop()()
            raise
    return Patch(model, plan, undos)


def _apply_one(model: nn.Module, prescription: Prescription, number: int) -> Undo:
    remedy = registry.remedies().get(prescription.remedy)
    if remedy is None:
        raise PlanError(
            f"Prescription {number} of the plan names the remedy {prescription.remedy!r}; "
            f"there are {', '.join(registry.remedies())}."
        )
    unknown = set(prescription.parameters) - set(remedy.parameters)
    if unknown:
        raise PlanError(
            f"Prescription {number} ({remedy.name}) has no parameter {min(unknown)!r}; "
            f"it has {', '.join(remedy.parameters) or 'none'}."
        )
    if set(prescription.changes) != set(remedy.changes):
        raise PlanError(
            f"Prescription {number} ({remedy.name}) says that it changes "
            f"{', '.join(prescription.changes) or 'nothing'}; it changes "
            f"{', '.join(remedy.changes)}."
        )
    repeated = [site for site in prescription.sites if prescription.sites.count(site) > 1]
    if repeated:
        raise PlanError(f"Prescription {number} ({remedy.name}) names {repeated[0]!r} twice.")
    # Refuses settings of the training now, not when a training starts.
    remedy.retrain(Training(torch.optim.SGD), prescription)
    with torch.no_grad():
        return remedy.apply(model, prescription)
