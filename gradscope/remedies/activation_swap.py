"""Put another activation in the place of the present ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import nn

from gradscope.derivatives.isigmoid import Isigmoid
from gradscope.errors import PlanError
from gradscope.profile.operators import is_activation
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import (
    Remedy,
    Undo,
    modules_found,
    outputs,
    parent_and_name,
    replaceable,
    sites_found,
)

__all__ = ["ActivationSwap"]


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "isigmoid": Isigmoid,
}

_REASONS = {
    "leaky-relu": "it passes a gradient for negative inputs too",
    "gelu": "it passes a gradient for small negative inputs too",
    "relu": "its derivative does not shrink the signal as the present one does",
    "tanh": "its derivative does not shrink the signal as the present one does",
    "isigmoid": "outside its middle part its slope is constant, so that it does not saturate",
}

_BOUNDED = (nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Hardtanh, nn.Softsign)


class ActivationSwap(Remedy):
    """Put another activation in the place of the present ones.

    ## What it does
    Replaces sigmoids and their like by ReLU, tanh or Isigmoid, and the ReLUs at sites with dead
    units by LeakyReLU or GELU. Weights stay. SELU, SiLU and ELU can be written into a plan.

    ## When it applies
    The activation modules are sub-modules that can be exchanged. Most of all on fresh weights: a
    trained network was trained for the function it has.

    ## When it must not be applied
    To gates and outputs whose range matters: the model's own output is left alone. SELU keeps
    variances only with weights of variance 1 / fan-in.

    ## Fix safety
    Unsafe: the function changes at once.

    ## References
    The slides (Better Activation); Hu, Zhang, Ge, equations 3 to 6 (LeakyReLU, Isigmoid); Nair,
    Hinton 2010; Maas, Hannun, Ng 2013; Clevert, Unterthiner, Hochreiter 2016 (ELU); Klambauer et
    al. 2017 (SELU); Hendrycks, Gimpel 2016 (GELU, SiLU).
    """

    name = "activation-swap"
    changes = (Change.FORWARD,)
    treats = ("GS101", "GS201", "GS202", "GS204")
    parameters: ClassVar[dict[str, str]] = {"activation": f"one of {', '.join(_ACTIVATIONS)}"}

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        dying = finding.code == "GS201"
        kinds: tuple[type[nn.Module], ...] = (nn.ReLU,) if dying else _BOUNDED
        sites = replaceable(model, kinds, outputs(model, profile))
        if finding.code in ("GS201", "GS202"):
            # What works is left alone; a finding over depth is no single site's.
            faulty = modules_found(model, profile, finding)
            sites = [site for site in sites if id(model.get_submodule(site)) in faulty]
        refused = self.refused_calls(sites_found(profile, finding))
        if not sites:
            reason = "there is no activation module that another would relieve"
            return [*refused] or [self.refusal(reason)]
        present = {type(model.get_submodule(site)) for site in sites}
        choices = ["leaky-relu", "gelu"] if dying else ["relu", "tanh"]
        if present == {nn.Sigmoid}:
            choices.append("isigmoid")
        prescribed = [
            self.prescription(finding, _REASONS[choice], sites, activation=choice)
            for choice in choices
            if present != {_ACTIVATIONS[choice]}
        ]
        return [*prescribed, *refused]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        choice = prescription.parameters.get("activation")
        kind = _ACTIVATIONS.get(str(choice))
        if kind is None:
            raise PlanError(
                f"{self.name} has no activation {choice!r}; it has {', '.join(_ACTIVATIONS)}."
            )
        places = [parent_and_name(model, site, self.name) for site in prescription.sites]
        originals = [(parent, name, getattr(parent, name)) for parent, name in places]
        for site, (_, _, original) in zip(prescription.sites, originals, strict=True):
            if not is_activation(original):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, which is a "
                    f"{type(original).__name__}, not an activation."
                )
        replacements = [kind() for _ in originals]
        for (parent, name, original), replacement in zip(originals, replacements, strict=True):
            replacement.train(original.training)
            setattr(parent, name, replacement)

        def undo() -> None:
            for parent, name, original in originals:
                setattr(parent, name, original)

        return undo
