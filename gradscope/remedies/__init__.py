"""Remedies: each changes one thing about a model or its training. One remedy per file.

A remedy's file holds its page (the class docstring), what it treats, how it decides whether it
applies (``propose``) and how it is carried out: ``apply`` changes a model in place and returns what
undoes it, ``retrain`` changes how the model is trained.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

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
    "Remedy",
    "Training",
    "Undo",
    "child",
    "modules_found",
    "outputs",
    "parent_and_name",
    "replaceable",
    "sites_found",
]

Undo = Callable[[], None]

_FUSED = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class Training:
    """How a model is trained, as far as remedies change it.

    Attributes:
        build_optimizer: makes the optimizer for the parameters given.
    """

    build_optimizer: BuildOptimizer


class Remedy(ABC):
    """One act that may repair a fault.

    Attributes:
        name: names the act.
        changes: what it changes; from it follows whether it is safe.
        treats: codes of the findings it may be proposed for.
        parameters: the parameters a prescription of it may have, with what each means.
    """

    name: ClassVar[str]
    changes: ClassVar[tuple[Change, ...]]
    treats: ClassVar[tuple[str, ...]]
    parameters: ClassVar[dict[str, str]] = {}

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
        """The training as this prescription changes it."""
        return training

    @property
    def safe(self) -> bool:
        return all(change.safe for change in self.changes)

    def prescription(
        self, finding: Finding, reason: str, sites: Iterable[str] = (), **parameters: Value
    ) -> Prescription:
        return Prescription(self.name, self.changes, tuple(sites), parameters, finding.code, reason)

    def refusal(self, reason: str, sites: Iterable[str] = ()) -> Refusal:
        return Refusal(self.name, reason, tuple(sites))

    def refused_calls(self, sites: Iterable[SiteProfile]) -> list[Refusal]:
        """For a remedy that works on activation modules: what of the sites is none."""
        calls = [site.name for site in sites if site.is_call and site.role is Role.ACTIVATION]
        if not calls:
            return []
        return [
            self.refusal(
                "a function is called there, which cannot be reached yet; make it a module, such "
                "as nn.ReLU() in place of F.relu(x)",
                calls,
            )
        ]


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
