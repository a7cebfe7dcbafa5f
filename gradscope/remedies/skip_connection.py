"""Lead the input of a layer around it and its activation: H(x) = F(x) + x."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo, child, outputs, parent_and_name
from gradscope.remedies.freshness import is_trained
from gradscope.remedies.overlay import Overlay, lay_over, take_off
from gradscope.remedies.wiring import activation_after, layers_with_activation, wires

__all__ = ["SkipConnection"]


class Skip(Overlay):
    """A layer that also applies its activation, and adds its input to what comes of it."""

    activation: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output = cast(Tensor, self.activation(super().forward(input)))  # type: ignore[misc]
        gate = self._parameters.get("gate")  # type: ignore[attr-defined]
        return output + (input if gate is None else gate * input)


class SkipConnection(Remedy):
    """Lead the input of a layer around it and its activation: H(x) = F(x) + x.

    ## What it does
    F is a layer with its activation whose output has the shape of its input. The layer stays where
    it is, with its name and state_dict keys, and computes H; the place of the activation is taken
    by the identity. The gradient gets a way on which nothing multiplies it: dL/dx is dL/dH plus
    what comes through F.

    Where ``gate`` is ``zero``, it is H(x) = F(x) + g x with one parameter g for each layer that
    starts at 0: the function is what it was, and training opens the way. That is for trained
    weights.

    ## When it applies
    The backward or the forward signal decays over depth, in layers of equal width (a linear layer
    with as many outputs as inputs, a convolution that keeps channels and extent) that an activation
    module follows at once. Which module follows which is read from a symbolic trace of the
    forward; where it cannot be traced, ``nn.Sequential`` containers are edited.

    ## When it must not be applied
    In models whose blocks have ways around them already. Where a normalisation stands between layer
    and activation.

    ## Fix safety
    Unsafe: the function changes at once; where ``gate`` is ``zero``, from the first step on.

    ## References
    The slides (Skip Connection); He, Zhang, Ren, Sun 2016 (ResNet); Bachlechner et al. 2021
    (ReZero), which gates F in place of x, so that a fresh network starts as the identity.
    """

    name = "skip-connection"
    changes = (Change.STRUCTURE,)
    treats = ("GS101", "GS204", "GS205")
    parameters: ClassVar[dict[str, str]] = {
        "gate": "`one`: F(x) + x; `zero`: F(x) + g x, where g is learned and starts at 0"
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if any(site.branch for site in profile.sites):
            return [self.refusal("the model has skip connections or parallel branches already")]
        ends = outputs(model, profile)
        found = layers_with_activation(model, wires(model))
        sites = [
            layer
            for layer, activation in found.items()
            if keeps_shape(model.get_submodule(layer))
            and id(model.get_submodule(activation)) not in ends
            and not model.get_submodule(activation).state_dict()
        ]
        if not sites:
            return [
                self.refusal(
                    "no layer keeps the shape of its input and hands its output to an activation "
                    "module alone, as far as the forward can be traced; write "
                    "x = x + activation(layer(x)) in place of x = activation(layer(x))"
                )
            ]
        gate = "zero" if is_trained(profile) else "one"
        reason = "the gradient gets a way around each layer on which nothing shrinks it"
        if gate == "zero":
            reason += "; it is shut at first, since the weights are trained"
        return [self.prescription(finding, reason, sites, gate=gate)]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        gate = prescription.parameters.get("gate", "one")
        if gate not in ("one", "zero"):
            raise PlanError(f"{self.name} needs `one` or `zero` for gate, not {gate!r}.")
        found = wires(model)
        blocks = []
        for site in prescription.sites:
            layer = child(model, site, self.name)
            if not keeps_shape(layer):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, a {type(layer).__name__}; it needs a "
                    "linear layer with as many outputs as inputs or a convolution that keeps "
                    "channels and extent."
                )
            after = activation_after(model, found, site)
            if after is None:
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, but no activation module takes its "
                    "output, and nothing else does."
                )
            parent, name = parent_and_name(model, after, self.name)
            activation = getattr(parent, name)
            if activation.state_dict():
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, but the parameters of the "
                    f"{type(activation).__name__} behind it, {after!r}, would change their names."
                )
            blocks.append((layer, parent, name, activation))
        for layer, parent, name, activation in blocks:
            lay_over(layer, Skip)
            layer.activation = activation
            if gate == "zero":
                weight = cast(Tensor, layer.weight)
                start = torch.zeros((), dtype=weight.dtype, device=weight.device)
                layer.register_parameter("gate", nn.Parameter(start))
            identity = nn.Identity()
            identity.training = activation.training
            setattr(parent, name, identity)

        def undo() -> None:
            for layer, parent, name, activation in reversed(blocks):
                setattr(parent, name, activation)
                del layer.activation
                if gate == "zero":
                    del layer.gate
                take_off(layer)

        return undo


def keeps_shape(layer: nn.Module) -> bool:
    """Whether a layer's output always has the shape of its input.

    Only torch's own linear layers and convolutions are known: a subclass may have a forward of its
    own.
    """
    if type(layer) is nn.Linear:
        return layer.in_features == layer.out_features
    if type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return False
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.in_channels != layer.out_channels or any(each != 1 for each in layer.stride):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    return all(
        2 * padding == dilation * (kernel - 1)
        for padding, dilation, kernel in zip(
            layer.padding, layer.dilation, layer.kernel_size, strict=True
        )
    )
