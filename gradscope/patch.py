"""Plan -> Patch: carries out a plan on a model, all of it or nothing, and undoes it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from types import TracebackType

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope import registry
from gradscope.checked import BuildOptimizer
from gradscope.derivatives import Derivative, derivatives
from gradscope.errors import PlanError, UsageError
from gradscope.patching import Reached, Setting, operators_of, stands_in
from gradscope.profile.sharding import bare
from gradscope.randomness import preserved_randomness
from gradscope.records import Change, Finding, Findings, Origin, Plan, Prescription, Value
from gradscope.remedies import Training, Undo
from gradscope.remedies.moments import carry_over

__all__ = ["Patch", "apply", "replace_derivative"]

_LOG = logging.getLogger("gradscope.patch")


class Patch:
    """A plan that has been carried out on a model.

    ``undo()`` puts the model back exactly as it was; leaving a ``with`` block does too. Undo before
    the model itself is saved whole or exported: a ``state_dict`` is the plain model's at any time,
    but a pickled module that is patched needs gradscope where it is loaded.

    Attributes:
        model: the patched model, the same object that was given.
        plan: what was carried out.
    """

    def __init__(self, model: nn.Module, plan: Plan, undos: Sequence[Undo]) -> None:
        self.model, self.plan = model, plan
        self._undos = list(undos)
        self._training: list[Undo] = []

    def undo(self) -> None:
        """Takes everything back, last change first. A second call does nothing.

        What training has changed meanwhile stays as it is, but in what the plan inserted, which
        goes, and in layers whose weights it drew anew or recycled: they get their old values back.
        """
        if self._undos:
            _tell_of_tracing(self.model, "unpatched")
        self._undos += self._training
        self._training = []
        _undo(self._undos)

    # --- Artificial derivatives ---------------------------------------------------------------

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What stands at each site with an artificial derivative, in the plan's order."""
        return tuple(
            setting
            for undo in self._undos
            if isinstance(undo, Reached)
            for setting in undo.settings
        )

    @property
    def strengths(self) -> dict[str, float]:
        """Share of the artificial derivative at each site, 0 to 1."""
        return {setting.site: setting.strength for setting in self.settings}

    def set(self, strength: float, sites: str | Iterable[str] | None = None) -> None:
        """Sets how much of the artificial derivatives is used; outputs are the same at any.

        Args:
            strength: 1 is the artificial derivative, 0 the true one; the gradient of what lies
                between is their weighted mean. A compiled model is traced again at 0, at 1, and
                for all that lies between once.
            sites: names or patterns of the sites that are meant; all by default.

        Raises:
            UsageError: the strength is not between 0 and 1, or a name matches no site.
        """
        chosen = self._matching(sites)
        before = [setting.mixture for setting in chosen]
        for setting in chosen:
            setting.set(strength)
        if before != [setting.mixture for setting in chosen]:
            _tell_of_tracing(self.model, "set to other derivatives")

    def _matching(self, sites: str | Iterable[str] | None) -> list[Setting]:
        settings = list(self.settings)
        if not settings:
            raise UsageError(
                "This patch has no artificial derivatives whose strength could be set."
            )
        if sites is None:
            return settings
        chosen: list[Setting] = []
        for site in [sites] if isinstance(sites, str) else sites:
            matched = [each for each in settings if fnmatchcase(each.site, site)]
            if not matched:
                raise UsageError(
                    f"The patch has no site {site!r}; it has "
                    f"{', '.join(each.site for each in settings)}."
                )
            chosen += matched
        return chosen

    # --- Training -----------------------------------------------------------------------------

    def training(self, training: Training) -> Training:
        """The training as the plan changes it."""
        for prescription in self.plan.prescriptions:
            training = registry.remedy(prescription.remedy).retrain(training, prescription)
        return training

    def build_optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        original: BuildOptimizer | None = None,
        previous: Optimizer | None = None,
        steps: int | None = None,
    ) -> Optimizer:
        """The optimizer that the plan prescribes.

        What the plan changes during training hangs on the optimizer that was built last.

        Args:
            parameters: to optimise, after patching: ``model.parameters()``.
            original: makes the optimizer where the plan prescribes none.
            previous: the optimizer of a training that is to go on. Where the new one is of its
                kind, its state follows the parameters that stay; those that the plan has drawn
                anew start without a past.
            steps: how many steps the training will take, where that is known; warm-up, stages and
                recycling then fit into it, as they do in the trials of a repair.

        Raises:
            PlanError: the plan prescribes no optimizer and no original is given.
        """

        def missing(_: Iterable[nn.Parameter]) -> Optimizer:
            raise PlanError("The plan prescribes no optimizer; give the original one's factory.")

        training = self.training(Training(original or missing))
        optimizer = training.build_optimizer(parameters)
        if previous is not None:
            carry_over(previous, optimizer, self._renewed())
        _undo(self._training)
        # What it changes during training hangs on hooks from here on; undoing takes them away.
        self._training = training.start(bare(self.model), optimizer, steps)[::-1]
        return optimizer

    def _renewed(self) -> list[nn.Parameter]:
        """The parameters that the plan has drawn anew."""
        return [
            parameter
            for entry in self.plan.prescriptions
            for parameter in registry.remedy(entry.remedy).renewed(bare(self.model), entry)
        ]

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
    equal plans give equal results. The global random state is left alone. Wrappers of DDP, FSDP2
    and ``torch.compile`` stay; what is compiled is traced anew at its next call, which is logged.

    Returns:
        The patch, which can be undone.

    Raises:
        PlanError: a prescription is unknown or does not fit the model, which is then unchanged.
    """
    if not isinstance(model, nn.Module):
        hint = " (its module() is one)" if type(model).__name__ == "ExportedProgram" else ""
        raise PlanError(f"A plan is applied to an nn.Module, not to {type(model).__name__}{hint}.")
    undos: list[Undo] = []
    with preserved_randomness(plan.seed):
        try:
            for number, prescription in enumerate(plan.prescriptions, 1):
                undos.append(_apply_one(bare(model), prescription, number))
        except PlanError as error:
            _undo(undos)
            raise PlanError(_located(plan, number - 1, str(error))) from error
        except BaseException:
            _undo(undos)
            raise
    if undos:
        _tell_of_tracing(model, "patched")
    return Patch(model, plan, undos)


def replace_derivative(
    model: nn.Module,
    derivative: str,
    sites: str | Iterable[str] | Finding | Findings | None = None,
    strength: float = 1.0,
    **parameters: Value,
) -> Patch:
    """Puts an artificial derivative into a model, without a diagnosis; outputs stay as they are.

        patch = gradscope.replace_derivative(model, "relu-logistic", "encoder.*")

    Args:
        model: patched in place.
        derivative: its name, such as ``relu-logistic``.
        sites: names such as ``layer1.act`` (all uses of the module), ``layer1.act@1`` (the second
            in a forward pass) or ``layer1::relu@0`` (the first such call in that module), patterns
            such as ``encoder.*`` and ``*::relu`` (nothing happens where there is no such call), or
            findings, of whose sites those are taken that the derivative can stand in for. By
            default all its activation modules; function calls are patched where they are named.
        strength: share of the artificial derivative, 0 to 1.
        parameters: of the derivative, such as ``k=3.5``. ReLU's has k = 1 and is for dead units
            alone, unless ``selective=False`` is among them.

    Raises:
        PlanError: there is no such derivative, parameter or site, or it cannot be reached.
    """
    kind = derivatives().get(derivative)
    if isinstance(sites, (Finding, Findings)):
        findings = [sites] if isinstance(sites, Finding) else list(sites)
        named = dict.fromkeys(site for finding in findings for site in finding.sites)
        found = [] if kind is None else _fitting(bare(model), kind, named)
        if kind is not None and not found:
            raise PlanError(f"{derivative} can stand in for none of the sites that were found.")
    elif sites is None:
        found = ["*"]
    else:
        found = [sites] if isinstance(sites, str) else list(sites)
    remedy = registry.remedy("artificial-derivative")
    values: dict[str, Value] = {**parameters, "derivative": derivative, "strength": strength}
    prescription = Prescription(
        remedy.name, remedy.changes, tuple(found), values, "", "it was asked for"
    )
    return apply(model, Plan((prescription,)))


def _fitting(model: nn.Module, kind: type[Derivative], sites: Iterable[str]) -> list[str]:
    """Those of the sites of findings that a derivative can stand in for."""
    modules = dict(model.named_modules(remove_duplicate=False))
    operators = operators_of(kind)

    def fits(site: str) -> bool:
        name, _, call = site.partition("::")
        if call:
            return call.partition("@")[0] in operators
        module = modules.get(name.partition("@")[0])
        return module is not None and stands_in(kind, bare(module))

    return [site for site in sites if fits(site)]


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
    if not prescription.sites and set(remedy.changes) - {Change.TRAINING}:
        raise PlanError(f"Prescription {number} ({remedy.name}) names no site to be applied at.")
    repeated = [site for site in prescription.sites if prescription.sites.count(site) > 1]
    if repeated:
        raise PlanError(f"Prescription {number} ({remedy.name}) names {repeated[0]!r} twice.")
    try:
        # Refuses settings of the training now, not when a training starts.
        remedy.retrain(Training(torch.optim.SGD), prescription)
        with torch.no_grad():
            return remedy.apply(model, prescription)
    except PlanError as error:
        raise PlanError(f"Prescription {number} ({remedy.name}): {error}") from error


def _located(plan: Plan, number: int, message: str) -> str:
    """The message with the file and the line of what it is about, if the plan was read from one."""
    origin: Origin | None = getattr(plan, "origin", None)
    if origin is None:
        return message
    entry = plan.prescriptions[number]
    place: tuple[int | str, ...] = ("plan", "prescriptions", number)
    for name, value in entry.parameters.items():
        named = re.search(rf"\b{re.escape(name)}\b", message) is not None
        if repr(name) in message or (named and repr(value) in message):
            return f"{origin.name}, line {origin.line((*place, 'parameters', name))}: {message}"
    for index, site in enumerate(entry.sites):
        if repr(site) in message:
            return f"{origin.name}, line {origin.line((*place, 'sites', index))}: {message}"
    return f"{origin.name}, line {origin.line((*place, 'remedy'))}: {message}"


def _undo(undos: list[Undo]) -> None:
    """Undoes everything, last first, also where one of them fails; the first failure is raised."""
    failures: list[Exception] = []
    while undos:
        try:
            undos.pop()()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _tell_of_tracing(model: nn.Module, what: str) -> None:
    """Says that compiled code will be made anew: its next call takes longer."""
    compiled = bare(model) is not model and _is_compiled(model)
    if compiled or any(map(_is_compiled, bare(model).modules())):
        _LOG.warning("A compiled model was %s; its next call traces it anew.", what)


def _is_compiled(module: nn.Module) -> bool:
    if type(module).__name__ == "OptimizedModule":
        return True
    return vars(module).get("_compiled_call_impl") is not None
