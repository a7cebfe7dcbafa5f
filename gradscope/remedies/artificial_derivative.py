"""Replace the derivative of activations by an artificial one; the forward stays bit-identical."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import fields
from inspect import cleandoc
from typing import Any, ClassVar

from torch import nn

from gradscope.derivatives import Derivative, derivative, derivatives
from gradscope.errors import PlanError, UsageError
from gradscope.patching import operators_of, places_of, reach
from gradscope.patching.setting import checked_strength
from gradscope.profile.operators import has_dead_zone
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
from gradscope.remedies import Remedy, Undo, outputs, sites_found

__all__ = ["ArtificialDerivative", "Differentiating", "unit_axis"]

_BOUNDED = (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign)

# Of two derivatives of one activation, the other is a remedy of its own.
_OF_OTHER_REMEDIES = frozenset({"sigmoid-beta", "relu-leaky"})

STRENGTH = "share of the artificial derivative, 0 to 1; the true one has the rest; 1 by default"

UNIT_AXIS = (
    "the dimension that counts units, where selective: -1 after linear layers, 1 after "
    "convolutions; or one for each site, such as '1, 1, -1'; without it 1 for tensors of four "
    "dimensions or more, else -1"
)


def _owners(parameter: str) -> str:
    """The derivatives that have a parameter of that name."""
    return ", ".join(
        name
        for name, kind in derivatives().items()
        if parameter in {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    )


class Differentiating(Remedy):
    """A remedy that puts artificial derivatives at activations, modules and calls alike."""

    changes = (Change.BACKWARD,)

    @abstractmethod
    def derivative_of(self, settings: dict[str, Any]) -> Derivative:
        """The derivative that the parameters of a prescription, but ``strength``, mean.

        Raises:
            PlanError: they mean none.
        """

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        settings = dict(prescription.parameters)
        strength = settings.pop("strength", 1.0)
        try:
            share = checked_strength(strength)
        except UsageError as error:
            raise PlanError(f"strength: {error}") from error
        return reach(model, self._derivatives(prescription.sites, settings), share, self.name)

    def _derivatives(
        self, sites: tuple[str, ...], settings: dict[str, Any]
    ) -> list[tuple[str, Derivative]]:
        """Each site with its derivative; they may differ in the dimension that counts units."""
        axes = settings.get("unit_axis")
        if not isinstance(axes, str):
            chosen = self.derivative_of(settings)
            return [(site, chosen) for site in sites]
        try:
            each = [int(axis) for axis in axes.split(",")]
        except ValueError as error:
            raise PlanError(f"unit_axis: {axes!r} is no list of whole numbers.") from error
        if len(each) != len(sites):
            raise PlanError(f"unit_axis: {axes!r} has {len(each)} for {len(sites)} sites.")
        return [
            (site, self.derivative_of({**settings, "unit_axis": axis}))
            for site, axis in zip(sites, each, strict=True)
        ]

    # --- Proposing ----------------------------------------------------------------------------

    def reachable(
        self, chosen: Derivative, profile: Profile, model: nn.Module, found: Iterable[SiteProfile]
    ) -> tuple[list[str], list[str], list[Refusal]]:
        """Where a derivative could be put: among what was found, everywhere, and why not.

        The model's own outputs are left alone.
        """
        calls = _calls(profile, operators_of(chosen))
        refused: list[Refusal] = []
        for site in list(calls):
            try:
                places_of(model, site, chosen, self.name)
            except PlanError as error:
                refused.append(self.refusal(str(error), [site]))
                del calls[site]
        faulty = {site.name for site in found}
        modules = {site.module for site in found if not site.is_call}
        everywhere = _modules_of(model, chosen, outputs(model, profile))
        hurt = {id(model.get_submodule(name)) for name in modules}
        here = [name for name in everywhere if id(model.get_submodule(name)) in hurt]
        here += [site for site, names in calls.items() if names & faulty]
        return here, [*everywhere, *calls], refused

    def collapsed(self) -> Refusal:
        """For what is found because the forward carries no information."""
        return self.refusal(
            "the forward signal has collapsed (GS204): a larger gradient has nothing to sort the "
            "samples by"
        )

    def fused(self, found: Iterable[SiteProfile], model: nn.Module) -> list[Refusal]:
        """For what was found at layers whose activations are inside one fused call."""
        recurrent = [
            site.name
            for site in found
            if not site.is_call
            and isinstance(model.get_submodule(site.module), (nn.RNNBase, nn.RNNCellBase))
        ]
        if not recurrent:
            return []
        reason = "its gates are computed in one fused call, which cannot be patched"
        return [self.refusal(f"{reason}; write the cell out", recurrent)]


class ArtificialDerivative(Differentiating):
    """Replace the derivative of activations by an artificial one.

    ## What it does
    The forward pass stays the native operator, bit for bit. In the backward pass ReLU's step
    becomes sigma(k x), the sigmoid's y (1 - y) becomes min(y, 1 - y), and so on: `derivative` names
    one. Reached are modules (`layer1.act`, or its second use `layer1.act@1`), function and method
    calls (`layer1::relu`, or its second one `layer1::relu@1`), patterns (`encoder.*`) and the nodes
    of fx graphs and exported programs. Where `selective` is true, only units that are idle on the
    whole batch (dead, or saturated) get the artificial derivative: the gradient of live ones stays
    exact. `relu-logistic` is selective, with k = 1, unless something else is said. `strength` below
    1 mixes in the true derivative.

    ## When it applies
    ReLU: units are dead. With the artificial derivative they get a gradient again. Where other
    units live, it is proposed selective first.

    Bounded activations: the gradient decays over depth while the forward still carries information.

    ## When it must not be applied
    When the forward signal has collapsed, a better gradient has nothing to sort: measured on
    the seven-layer sigmoid MLP of the examples, the first layers' gradient grows 30 times and
    accuracy stays at 10 %. On a live, deep ReLU network it replaces a right gradient by a wrong
    one and can ruin training, unless it is selective. So it is proposed for dead units only, never
    for decay of scale in ReLU networks. A live sigmoid network of sixteen layers with BatchNorm is
    18 points behind after three epochs with min(y, 1 - y), so it is proposed only where the
    gradient has decayed. The gates of nn.LSTM and nn.GRU and TorchScript cannot be
    reached, nor can calls in functions (not modules) that activation checkpointing runs again, nor
    ``torch.relu_(x)`` and ``F.relu_(x)`` in compiled code. Do not apply it to a model that
    differentiates in its forward, as force fields do: its outputs would change.

    ## Fix safety
    Safe: outputs, weights and keys are unchanged; the repaired model's state_dict, loaded
    elsewhere, is the plain one's. The gradient is biased: `gradscope.bias` says how much, and
    `gradscope.Annealing` hands over to the true one.

    ## References
    Hu, Zhang, Ge (Handling Vanishing Gradient Problem Using Artificial Derivative), equations 8
    and 11. What `derivative` may name, by x and the output y:
    """

    name = "artificial-derivative"
    treats = ("GS101", "GS201")
    parameters: ClassVar[dict[str, str]] = {
        "derivative": f"one of {', '.join(derivatives())}",
        "strength": STRENGTH,
        **{
            entry.name: UNIT_AXIS if entry.name == "unit_axis" else f"of {_owners(entry.name)}"
            for kind in derivatives().values()
            for entry in fields(kind)  # type: ignore[arg-type]
        },
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if finding.code == "GS101" and finding.cause == "GS204":
            return [self.collapsed()]
        found = sites_found(profile, finding)
        proposals: list[Prescription | Refusal] = []
        refused: list[Refusal] = self.fused(found, model)
        dying = finding.code == "GS201"
        for name, kind in derivatives().items():
            if kind.native is None or name in _OF_OTHER_REMEDIES:
                continue
            if not (has_dead_zone(kind.native) if dying else kind.native in _BOUNDED):
                continue
            here, everywhere, unreached = self.reachable(kind(), profile, model, found)
            refused += unreached
            # Units that live now may die in training, so all of the kind are tried as well.
            choices = [here, everywhere] if dying else [everywhere]
            selective = [False]
            if dying and _partly_dead(profile, found):
                selective = [True, False]
            proposals += [
                self._proposal(finding, profile, kind, sites, keeping)
                for keeping in selective
                for index, sites in enumerate(choices)
                if sites and sites not in choices[:index]
            ]
        if not proposals and not refused:
            reason = "no activation here has an artificial derivative for this fault"
            return [self.refusal(reason)]
        return [*proposals, *refused]

    def _proposal(
        self,
        finding: Finding,
        profile: Profile,
        kind: type[Derivative],
        sites: list[str],
        selective: bool,
    ) -> Prescription:
        assert kind.native is not None
        values: dict[str, Value] = dict(vars(kind()))
        kept = ""
        if "selective" in values:
            values.pop("unit_axis")
            values["selective"] = selective
        if selective:
            values["unit_axis"] = _unit_axes(profile, sites)
            kept = "of units that are dead on a batch; live ones keep theirs, "
        return self.prescription(
            finding,
            f"{kind.native.__name__}'s derivative becomes {kind.formula} {kept}".rstrip(", ")
            + "; the forward stays as it is",
            sites,
            derivative=kind.name,
            **values,
        )

    def derivative_of(self, settings: dict[str, Any]) -> Derivative:
        settings = dict(settings)
        return derivative(str(settings.pop("derivative", "")), settings)


def _table() -> str:
    """Every derivative with its formula and source, as a table of the remedy's page."""
    rows = [("derivative", "of", "formula", "source"), ("---",) * 4]
    for name, kind in derivatives().items():
        of = operators_of(kind)[0] if kind.native is None else kind.native.__name__
        rows.append((name, of, f"`{kind.formula}`", kind.source))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


ArtificialDerivative.__doc__ = f"{cleandoc(ArtificialDerivative.__doc__ or '')}\n\n{_table()}"


def _partly_dead(profile: Profile, found: Iterable[SiteProfile]) -> bool:
    """Whether units of what was found are dead while others of the model live."""
    return any(site.dead for site in found) and any(
        site.dead is not None and site.dead < 1 for site in profile.sites
    )


def _modules_of(model: nn.Module, chosen: Derivative, except_for: set[int]) -> list[str]:
    """Names of the modules that a derivative can stand in for."""
    try:
        places = places_of(model, "*", chosen, "")
    except PlanError:
        return []
    return [place.name for place in places if place.name and id(place.module) not in except_for]


def _calls(profile: Profile, operators: tuple[str, ...]) -> dict[str, set[str]]:
    """Call sites of operators, with the sites of the profile that each is.

    Where all calls of a function in a module are meant, they are one site without a number: a
    profile counts on over several passes in one step, and the model begins anew in each.
    """
    calls: dict[str, list[SiteProfile]] = {}
    for site in profile.sites:
        operator = site.name.partition("::")[2].partition("@")[0]
        if site.is_call and operator in operators:
            calls.setdefault(f"{site.module}::{operator}", []).append(site)
    found: dict[str, set[str]] = {}
    for name, sites in calls.items():
        meant = [s for s in sites if s.role is Role.ACTIVATION and not s.is_output]
        if len(meant) == len(sites):
            found[name] = {site.name for site in sites}
        else:
            found.update({site.name: {site.name} for site in meant})
    return found


def _unit_axes(profile: Profile, sites: list[str]) -> Value:
    """Which dimension counts units at each site: one number, or one for each in words."""
    axes = [unit_axis(profile, site) for site in sites]
    return axes[0] if len(set(axes)) == 1 else ", ".join(map(str, axes))


def unit_axis(profile: Profile, name: str) -> int:
    """Which dimension counts units at a site: the last is -1, also where the site is not known."""
    for site in profile.sites:
        if name in (site.name, site.module if not site.is_call else site.name.partition("@")[0]):
            return -1 if site.unit_axis == len(site.shape) - 1 else site.unit_axis
    return -1
