"""Train with another optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Training

__all__ = ["OptimizerSwap"]

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam}


class OptimizerSwap(Remedy):
    """Train with another optimizer.

    ## What it does
    Replaces the optimizer by Adam, which divides each parameter's gradient by its own running
    magnitude: a gradient that decays over depth still moves the first layers, as long as it is
    larger than Adam's eps.

    ## When it applies
    The gradient decays or grows over depth and the present optimizer takes steps in proportion
    to it, as SGD does.

    ## When it must not be applied
    For dead units: no optimizer makes a step of a gradient that is exactly zero.

    ## Fix safety
    Safe: the model is unchanged. Learning rate and weight decay mean other things to Adam, so the
    learning rate is part of the prescription.

    ## References
    The slides (Better Optimizer); Kingma, Ba 2014 (Adam).
    """

    name = "optimizer-swap"
    changes = (Change.TRAINING,)
    treats = ("GS101", "GS102", "GS204")
    parameters: ClassVar[dict[str, str]] = {
        "optimizer": f"one of {', '.join(_OPTIMIZERS)}",
        "lr": "learning rate",
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
        return [
            self.prescription(
                finding,
                "Adam's steps do not depend on the gradient's scale",
                optimizer="adam",
                lr=1e-3,
            )
        ]

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        settings: dict[str, Any] = dict(prescription.parameters)
        name = settings.pop("optimizer", None)
        build = _OPTIMIZERS.get(str(name))
        if build is None:
            raise PlanError(
                f"{self.name} has no optimizer {name!r}; it has {', '.join(_OPTIMIZERS)}."
            )
        rate = settings.get("lr", 1e-3)
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise PlanError(f"{self.name} needs a positive, finite lr, not {rate!r}.")
        return replace(training, build_optimizer=lambda parameters: build(parameters, **settings))
