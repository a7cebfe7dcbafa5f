"""Remedies: each changes one thing about a model or its training. One remedy per file.

A remedy's file holds its page (the class docstring), what it treats, how it decides whether it
applies (``propose``) and how it is carried out: ``apply`` changes a model in place and returns what
undoes it, ``retrain`` changes how the model is trained.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.checked import BuildOptimizer
from gradscope.errors import PlanError
from gradscope.records import (
    Change,
    Finding,
    Prescription,
    Profile,
    Refusal,
    Role,
    SiteProfile,
    Value,
)

__all__ = [
    "Prepare",
    "Remedy",
    "Training",
    "Undo",
    "before_update",
    "check_number",
    "child",
    "modules_found",
    "outputs",
    "parent_and_name",
    "replaceable",
    "sites_found",
]

Undo = Callable[[], None]

Prepare = Callable[[nn.Module, Optimizer, int | None], Undo]
"""Is given a model, its new optimizer, and how many steps are planned, None where that is open.

Returns what takes its hooks away. They may also take themselves away, but a hook that runs after
the optimizer's step must not do so while it runs: torch stumbles over that where others follow.
"""

_FUSED = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class Training:
    """How a model is trained, as far as remedies change it.

    Attributes:
        build_optimizer: makes the optimizer for the parameters given.
        prepare: called one after the other before the first step; what they do during training
            hangs on hooks of the model and of the optimizer.
    """

    build_optimizer: BuildOptimizer
    prepare: tuple[Prepare, ...] = ()

    def start(self, model: nn.Module, optimizer: Optimizer, steps: int | None = None) -> list[Undo]:
        """Prepares a model and its optimizer for ``steps`` steps of this training.

        Returns:
            What ends it before its time, in the order it has to be called in.

        Raises:
            PlanError: a prescription does not fit the model; nothing hangs on it then.
        """
        undos: list[Undo] = []
        try:
            for prepare in self.prepare:
                undos.insert(0, prepare(model, optimizer, steps))
        except BaseException:
            for undo in undos:
                undo()
            raise
        return undos


class Remedy(ABC):
    """One act that may repair a fault.

    Attributes:
        name: names the act.
        changes: what it changes; from it follows whether it is safe.
        treats: codes of the findings it may be proposed for.
        parameters: the parameters a prescription of it may have, with what each means.
        rivals_rates: whether it has to beat doing nothing with other learning rates to count as a
            repair; no for what changes nothing but the learning rate.
    """

    name: ClassVar[str]
    changes: ClassVar[tuple[Change, ...]]
    treats: ClassVar[tuple[str, ...]]
    parameters: ClassVar[dict[str, str]] = {}
    rivals_rates: ClassVar[bool] = True

    @abstractmethod
    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        """What this remedy could do about a finding, best first, or why it can do nothing."""

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        """Changes ``model`` in place as prescribed.

        Random numbers come from torch's global generator, which the caller has seeded.

        Returns:
            What puts the model back exactly as it was.

        Raises:
            PlanError: the prescription does not fit the model; the model is unchanged then.
        """
        return lambda: None

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        """The training as this prescription changes it.

        Raises:
            PlanError: a parameter of the prescription cannot be meant.
        """
        return training

    def renewed(self, model: nn.Module, prescription: Prescription) -> list[nn.Parameter]:
        """Parameters that were drawn anew: what an optimizer remembers of them is void."""
        return []

    @property
    def safe(self) -> bool:
        return all(change.safe for change in self.changes)

    def prescription(
        self, finding: Finding, reason: str, sites: Iterable[str] = (), **parameters: Value
    ) -> Prescription:
        return Prescription(self.name, self.changes, tuple(sites), parameters, finding.code, reason)

    def refusal(self, reason: str, sites: Iterable[str] = ()) -> Refusal:
        return Refusal(self.name, reason, tuple(sites))

    def refused_calls(
        self,
        sites: Iterable[SiteProfile],
        lines: str = "make it a module, such as nn.ReLU() in place of F.relu(x)",
    ) -> list[Refusal]:
        """For a remedy that works on activation modules: what of the sites is none.

        ``lines`` says what a person would write.
        """
        calls = [site.name for site in sites if site.is_call and site.role is Role.ACTIVATION]
        if not calls:
            return []
        return [
            self.refusal(f"a function is called there, which cannot be reached yet; {lines}", calls)
        ]


def before_update(optimizer: Optimizer, act: Callable[[], None]) -> RemovableHandle:
    """Has ``act()`` called in each step when the gradients are there, ahead of the update.

    Where the step is given a closure, which computes them, that is after each call of it.
    """

    def hook(_: Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        # torch passes the optimizer itself first.
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if not callable(closure):
            act()
            return None

        def acting() -> Any:
            loss = closure()
            act()
            return loss

        if "closure" in named:
            return arguments, {**named, "closure": acting}
        return (arguments[0], acting, *arguments[2:]), named

    return optimizer.register_step_pre_hook(hook)


def check_number(
    remedy: str,
    parameter: str,
    value: object,
    *,
    low: float = 0.0,
    high: float = math.inf,
    whole: bool = False,
) -> float:
    """A parameter of a prescription as a number between ``low`` and ``high``, both excluded.

    Raises:
        PlanError: it is none; plans are edited by hand, so it may be anything.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low < value < high:
        what = "a whole number" if whole else "a number"
        limits = f"above {low:g}" + (f" and below {high:g}" if high < math.inf else "")
        raise PlanError(f"{remedy} needs {what} {limits} for {parameter}, not {value!r}.")
    return value


def child(model: nn.Module, site: str, remedy: str) -> nn.Module:
    """The module of that name.

    Raises:
        PlanError: the model has none.
    """
    try:
        return model.get_submodule(site)
    except AttributeError as error:
        raise PlanError(
            f"{remedy} is prescribed for {site!r}, but {type(model).__name__} has no module of "
            "that name; the plan was made for another model."
        ) from error


def parent_and_name(model: nn.Module, site: str, remedy: str) -> tuple[nn.Module, str]:
    """The module that holds the module of that name, and the name it has there.

    Raises:
        PlanError: the model has none, or the site is the model itself.
    """
    child(model, site, remedy)
    path, _, name = site.rpartition(".")
    if not name:
        raise PlanError(f"{remedy} cannot replace the model itself.")
    parent = model.get_submodule(path)
    if isinstance(parent, _FUSED):
        raise PlanError(
            f"{remedy} cannot replace {site!r}: in eval mode {type(parent).__name__} computes "
            "its activation in a fused kernel, whatever module stands there."
        )
    return parent, name


def _modules_at(model: nn.Module, sites: Iterable[SiteProfile]) -> set[int]:
    """Identities of the modules at these sites, whatever name each use of them has."""
    return {id(model.get_submodule(site.module)) for site in sites if not site.is_call}


def sites_found(profile: Profile, finding: Finding) -> list[SiteProfile]:
    """The sites of a finding."""
    return [site for site in profile.sites if site.name in finding.sites]


def modules_found(model: nn.Module, profile: Profile, finding: Finding) -> set[int]:
    """Identities of the modules at the sites of a finding."""
    return _modules_at(model, sites_found(profile, finding))


def outputs(model: nn.Module, profile: Profile) -> set[int]:
    """Identities of the modules whose output is the model's: their range is meant."""
    return _modules_at(model, (site for site in profile.sites if site.is_output))


def replaceable(
    model: nn.Module, kinds: tuple[type[nn.Module], ...], except_for: Collection[int] = ()
) -> list[str]:
    """Every place of a module of these kinds that another module can take.

    ``except_for`` holds identities of modules.
    """
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if name
        and isinstance(module, kinds)
        and id(module) not in except_for
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), _FUSED)
    ]
