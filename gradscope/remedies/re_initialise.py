"""Draw the weights anew, at the scale that the layers' fan and activation ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gradscope.errors import PlanError
from gradscope.profile.operators import saturation
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo, child

__all__ = ["ReInitialise"]

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def _he(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _xavier(weight: Tensor) -> Tensor:
    return nn.init.xavier_normal_(weight)


def _orthogonal(weight: Tensor) -> Tensor:
    return nn.init.orthogonal_(weight, gain=2**0.5)


_SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "he": _he,
    "xavier": _xavier,
    "orthogonal": _orthogonal,
}


class ReInitialise(Remedy):
    """Draw the weights anew, at the scale that the layers' fan and activation ask for.

    ## What it does
    Linear and convolution weights are drawn from Xavier's normal distribution in models with
    bounded activations, from He's in others; biases are set to zero. Frozen, parametrised and
    shared weights stay.

    ## When it applies
    To weights that have not learned anything yet: a scale that makes the signal decay, grow or
    die is repaired at its source.

    ## When it must not be applied
    To trained weights: they are lost.

    ## Fix safety
    Unsafe: the parameters change.

    ## References
    The slides (Weight Increasing); Glorot, Bengio 2010, eq. 12 and 16; He et al. 2015, eq. 10;
    Saxe, McClelland, Ganguli 2014 (orthogonal).
    """

    name = "re-initialise"
    changes = (Change.PARAMETERS,)
    treats = ("GS101", "GS102", "GS201", "GS202", "GS204")
    parameters: ClassVar[dict[str, str]] = {"scheme": f"one of {', '.join(_SCHEMES)}"}

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        holders = Counter(
            id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
        )
        shared = {weight for weight, count in holders.items() if count > 1}
        sites = [
            name
            for name, module in model.named_modules()
            if isinstance(module, _LAYERS)
            and not is_parametrized(module)
            and module.weight.requires_grad
            and id(module.weight) not in shared
        ]
        if not sites or "" in sites:
            return [
                self.refusal(
                    "there is no linear or convolution layer that is trained and has weights of "
                    "its own"
                )
            ]
        bounded = any(saturation(module) is not None for module in model.modules())
        scheme, formula = ("xavier", "2 / (fan-in + fan-out)") if bounded else ("he", "2 / fan-in")
        return [
            self.prescription(
                finding,
                f"weights of variance {formula} keep the signal's scale",
                sites,
                scheme=scheme,
            )
        ]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        scheme = _SCHEMES.get(str(prescription.parameters.get("scheme")))
        if scheme is None:
            raise PlanError(
                f"{self.name} has no scheme {prescription.parameters.get('scheme')!r}; "
                f"it has {', '.join(_SCHEMES)}."
            )
        modules = [child(model, site, self.name) for site in prescription.sites]
        for site, module in zip(prescription.sites, modules, strict=True):
            if not isinstance(module, _LAYERS) or is_parametrized(module):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, which is a {type(module).__name__}; "
                    "it needs linear or convolution layers whose weights are their own."
                )
        tensors = [
            tensor
            for module in modules
            for tensor in (module.weight, module.bias)
            if isinstance(tensor, Tensor)
        ]
        values = [tensor.detach().clone() for tensor in tensors]
        with torch.no_grad():
            for tensor in tensors:
                if tensor.ndim > 1:
                    scheme(tensor)
                else:
                    tensor.zero_()

        def undo() -> None:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)

        return undo
