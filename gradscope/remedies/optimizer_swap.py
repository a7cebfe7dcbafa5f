"""Train with another optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Training, check_number
from gradscope.remedies.sdagd import SDAGD

__all__ = ["OptimizerSwap"]

# What each takes beside lr, with the largest value it may have.
_SETTINGS: dict[str, dict[str, float]] = {
    "adam": {},
    "momentum": {"momentum": 1.0},
    "sdagd": {"radius": float("inf")},
}
_RATES = {"adam": 1e-3, "sdagd": 1.0}
_MOMENTUM = 0.9
_RADIUS = 0.05


class OptimizerSwap(Remedy):
    """Train with another optimizer.

    ## What it does
    Replaces the optimizer; momentum keeps the groups of parameters that it has.

    - ``adam`` divides each parameter's gradient by its own running magnitude: a gradient that
      decays over depth still moves the first layers, as long as it is larger than Adam's eps.
    - ``momentum`` is SGD that adds 0.9 of the step before; without ``lr`` it keeps the present
      learning rate.
    - ``sdagd`` is the slides' stochastic diagonal approximate greatest descent: each layer's
      gradient is divided by its norm over a radius, plus an estimate of the curvature of each
      weight. Where the loss is flat every layer moves by the radius.

    ## When it applies
    The gradient decays or grows over depth and the present optimizer takes steps in proportion
    to it, as SGD does; momentum also where steps swing to and fro, or stand still on a plateau.

    ## When it must not be applied
    For dead units: no optimizer makes a step of a gradient that is exactly zero.

    ## Fix safety
    Safe: the model is unchanged. Learning rate and weight decay mean other things to Adam and
    SDAGD, so the learning rate is part of the prescription, and weight decay is dropped.

    ## References
    The slides (Better Optimizer; Other Methods: SDAGD); Kingma, Ba 2014 (Adam); Polyak 1964
    (momentum).
    """

    name = "optimizer-swap"
    changes = (Change.TRAINING,)
    treats = ("GS101", "GS102", "GS204", "GS501")
    parameters: ClassVar[dict[str, str]] = {
        "optimizer": f"one of {', '.join(_SETTINGS)}",
        "lr": "learning rate (default 0.001 for adam, 1 for sdagd, that of the present optimizer "
        "for momentum)",
        "momentum": f"of momentum (default {_MOMENTUM:g})",
        "radius": f"of sdagd: length of a step of a whole parameter (default {_RADIUS:g})",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if profile.epsilon is not None:
            return [
                self.refusal(
                    f"{profile.optimizer} already divides each gradient by its own magnitude"
                )
            ]
        proposals: list[Prescription | Refusal] = [
            self.prescription(
                finding,
                "Adam's steps do not depend on the gradient's scale",
                optimizer="adam",
                lr=_RATES["adam"],
            )
        ]
        if finding.code in ("GS101", "GS204"):
            proposals.append(
                self.prescription(
                    finding,
                    "each layer gets a step of its own length, however small its gradient",
                    optimizer="sdagd",
                    lr=_RATES["sdagd"],
                    radius=_RADIUS,
                )
            )
        if finding.code != "GS102":
            proposals.append(
                self.prescription(
                    finding,
                    "steps in one direction add up, and those to and fro cancel",
                    optimizer="momentum",
                    momentum=_MOMENTUM,
                )
            )
        return proposals

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        settings: dict[str, Any] = dict(prescription.parameters)
        name = str(settings.pop("optimizer", None))
        known = _SETTINGS.get(name)
        if known is None:
            raise PlanError(
                f"{self.name} has no optimizer {name!r}; it has {', '.join(_SETTINGS)}."
            )
        for key, value in settings.items():
            if key != "lr" and key not in known:
                raise PlanError(f"{self.name} with optimizer {name} takes no {key}.")
            check_number(self.name, key, value, high=known.get(key, float("inf")))
        build = training.build_optimizer

        def swapped(parameters: Iterable[nn.Parameter]) -> Optimizer:
            parameters = list(parameters)
            if name == "adam":
                return torch.optim.Adam(parameters, **{"lr": _RATES["adam"], **settings})
            if name == "sdagd":
                return SDAGD(parameters, **{"radius": _RADIUS, **settings})
            if "lr" in settings:
                return torch.optim.SGD(parameters, **{"momentum": _MOMENTUM, **settings})
            return _with_momentum(build(parameters), settings.get("momentum", _MOMENTUM))

        return replace(training, build_optimizer=swapped)


def _with_momentum(present: Optimizer, momentum: float) -> Optimizer:
    """SGD with the groups, learning rates and weight decay of the present optimizer."""
    groups: list[dict[str, Any]] = [
        {key: group[key] for key in ("params", "lr", "weight_decay") if key in group}
        for group in present.param_groups
    ]
    if isinstance(present, torch.optim.SGD) and all(
        group["momentum"] >= momentum for group in present.param_groups
    ):
        raise PlanError(f"optimizer-swap: SGD has a momentum of {momentum:g} or more already.")
    return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=momentum)
