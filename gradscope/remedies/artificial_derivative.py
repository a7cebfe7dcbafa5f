"""Replace the derivative of activations by an artificial one; the forward stays bit-identical."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

from torch import nn

from gradscope.derivatives import derivative, derivatives
from gradscope.errors import PlanError
from gradscope.profile.operators import has_dead_zone
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo, child, modules_found, outputs, sites_found

__all__ = ["ArtificialDerivative"]


class ArtificialDerivative(Remedy):
    """Replace the derivative of activations by an artificial one.

    ## What it does
    The forward pass stays the native operator, bit for bit. In the backward pass ReLU's step
    becomes sigma(k x), the sigmoid's y (1 - y) becomes min(y, 1 - y). Modules keep their place,
    name and state_dict keys; only their class changes to a subclass of what it was.

    ## When it applies
    ReLU: units are dead. With the artificial derivative they get a gradient again.
    Sigmoid: the gradient decays over depth while the forward still carries information.

    ## When it must not be applied
    When the forward signal has collapsed, a better gradient has nothing to sort: measured on
    the seven-layer sigmoid MLP of the examples, the first layers' gradient grows 30 times and
    accuracy stays at 10 %. On a live, deep ReLU network it replaces a right gradient by a wrong
    one and can ruin training. So it is proposed for dead units only, never for decay of scale
    in ReLU networks.

    ## Fix safety
    Safe: outputs, weights and keys are unchanged; the repaired model, saved and loaded elsewhere,
    is the plain one.

    ## References
    Hu, Zhang, Ge (Handling Vanishing Gradient Problem Using Artificial Derivative), equations 8
    and 11.
    """

    name = "artificial-derivative"
    changes = (Change.BACKWARD,)
    treats = ("GS101", "GS201")
    parameters: ClassVar[dict[str, str]] = {
        "derivative": f"one of {', '.join(derivatives())}",
        **{
            entry.name: f"of {name}"
            for name, kind in derivatives().items()
            for entry in fields(kind)  # type: ignore[arg-type]
        },
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if finding.code == "GS101" and finding.cause == "GS204":
            return [
                self.refusal(
                    "the forward signal has collapsed (GS204): a larger gradient has nothing to "
                    "sort the samples by"
                )
            ]
        proposals: list[Prescription | Refusal] = []
        refused = self.refused_calls(sites_found(profile, finding))
        ends = outputs(model, profile)
        faulty = modules_found(model, profile, finding)
        for name, kind in derivatives().items():
            if (finding.code == "GS201") is not has_dead_zone(kind.native):
                continue
            everywhere = _modules_of(model, kind.native, ends)
            here = [site for site in everywhere if id(model.get_submodule(site)) in faulty]
            # Units that live now may die in training, so all of the kind are tried as well.
            choices = [here, everywhere] if finding.code == "GS201" else [everywhere]
            proposals += [
                self.prescription(
                    finding,
                    f"{kind.native.__name__}'s derivative becomes {kind.formula}; "
                    "the forward stays as it is",
                    sites,
                    derivative=name,
                    **vars(kind()),
                )
                for index, sites in enumerate(choices)
                if sites and sites not in choices[:index]
            ]
        if not proposals and not refused:
            reason = "no activation module here has an artificial derivative for this fault"
            return [self.refusal(reason)]
        return [*proposals, *refused]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        settings = dict(prescription.parameters)
        name = str(settings.pop("derivative", ""))
        replacement = derivative(name, settings)
        modules = [child(model, site, self.name) for site in prescription.sites]
        for site, module in zip(prescription.sites, modules, strict=True):
            if type(module) is not replacement.native:
                raise PlanError(
                    f"{self.name} prescribes {name} for {site!r}, which is a "
                    f"{type(module).__name__}, not a {replacement.native.__name__}."
                )
        for module in modules:
            module.__class__ = replacement.module
            module.derivative = replacement  # type: ignore[assignment]

        def undo() -> None:
            for module in modules:
                module.__class__ = replacement.native
                del module.derivative

        return undo


def _modules_of(model: nn.Module, kind: type[nn.Module], except_for: set[int]) -> list[str]:
    """Names of the modules of exactly that class: a subclass may have a forward of its own."""
    return [
        name
        for name, module in model.named_modules()
        if type(module) is kind and name and id(module) not in except_for
    ]
