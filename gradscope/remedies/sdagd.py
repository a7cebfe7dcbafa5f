"""W <- W - lr g / (||g|| / R + h): stochastic diagonal approximate greatest descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["SDAGD"]


class SDAGD(Optimizer):
    """Stochastic diagonal approximate greatest descent.

    The slides have W <- W + [mu J + H(W)]^-1 g(W), with the relative step length mu = ||g|| / R, J
    all ones, H the truncated Hessian, R a constant radius, and g the direction of descent. H is
    truncated to its diagonal, so mu J + H is one number for each weight, and so is its inverse:

        W <- W - lr g / (||g|| / R + h)

    ||g|| is the norm over one parameter tensor, so that each layer gets a step length of its own:
    where h is small the step has length lr R, however small the gradient is, which is what helps
    where it vanishes. The diagonal is not computed from second derivatives, which an optimizer does
    not see: h is the running mean of g squared (the diagonal of the empirical Fisher matrix),
    corrected for its start at zero. That stand-in is ours; LeCun et al. 2012 (Efficient backprop),
    section 7.4, truncate to a diagonal that is never negative as well.

    Args:
        params: as of every optimizer.
        lr: a factor on all steps, dimensionless.
        radius: R, the length of a step of a whole parameter where it is flat, in units of weights.
        decay: of the running mean, from 0 to 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, radius: float = 0.05, decay: float = 0.95
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr is {lr}; it must not be negative")
        if not radius > 0:
            raise ValueError(f"radius is {radius}; it must be positive")
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must be at least 0 and below 1")
        super().__init__(params, {"lr": lr, "radius": radius, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; parameters without a gradient, or with one of zero, stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if not gradient.numel():
            return
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["curvature"] = torch.zeros_like(parameter)
        state["step"] += 1
        curvature, decay = state["curvature"], group["decay"]
        curvature.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        mean = curvature / (1 - decay ** state["step"])
        # Squares of a gradient that has vanished would be zero, and so would the norm.
        largest = gradient.abs().max()
        norm = largest * (gradient / largest).norm()
        divisor = norm / group["radius"] + mean
        # A gradient of exactly zero everywhere would be divided by zero.
        step = torch.where(divisor > 0, gradient / divisor, torch.zeros_like(gradient))
        parameter.add_(step, alpha=-group["lr"])
