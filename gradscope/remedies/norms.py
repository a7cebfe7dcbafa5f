"""Normalisation layers that remedies insert: how a plan spells them, and how they start."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.records import SiteProfile

__all__ = ["CustomNorm", "joined", "parsed", "spelled", "start_as_identity"]


class CustomNorm(nn.Module):
    """The slides' CustomNorm: standardises each unit over the batch, without parameters.

    y = (x - mean) / sqrt(variance + eps), over samples and positions, in ``train()`` and in
    ``eval()`` alike: unlike BatchNorm it keeps no running statistics, so that what it makes of a
    sample always depends on the samples beside it. Any shape ``(batch, ...)`` with the units in
    dimension ``axis``; type and device of the output are the input's.
    """

    def __init__(self, axis: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.axis, self.eps = axis, eps

    def forward(self, input: Tensor) -> Tensor:
        over = [dim for dim in range(input.ndim) if dim != self.axis % input.ndim]
        variance, mean = torch.var_mean(input, over, correction=0, keepdim=True)
        return (input - mean) * torch.rsqrt(variance + self.eps)

    def extra_repr(self) -> str:
        return str(self.axis)


# The layers that a prescription may spell out, and how many whole numbers each takes.
_KINDS: dict[str, tuple[type[nn.Module], int]] = {
    "BatchNorm1d": (nn.BatchNorm1d, 1),
    "BatchNorm2d": (nn.BatchNorm2d, 1),
    "BatchNorm3d": (nn.BatchNorm3d, 1),
    "LayerNorm": (nn.LayerNorm, 1),
    "GroupNorm": (nn.GroupNorm, 2),
    "RMSNorm": (nn.RMSNorm, 1),
    "CustomNorm": (CustomNorm, 1),
}

# Groups of GroupNorm: the largest of these that divides the channels (Wu, He 2018, table 3).
_GROUPS = (32, 16, 8, 4, 2, 1)


def spelled(kind: str, site: SiteProfile) -> str | None:
    """The layer of that kind for what a site puts out; None where there is none for its layout.

    ``kind`` is BatchNorm, LayerNorm, GroupNorm or RMSNorm.
    """
    dimensions = len(site.shape)
    units_last = site.unit_axis == dimensions - 1
    match kind:
        case "BatchNorm":
            if site.unit_axis != 1 or dimensions > 5:
                return None
            return f"BatchNorm{max(1, dimensions - 2)}d({site.units})"
        case "LayerNorm":
            return f"LayerNorm({site.units})" if units_last else f"GroupNorm(1, {site.units})"
        case "GroupNorm":
            if site.unit_axis != 1:
                return None
            groups = next(each for each in _GROUPS if site.units % each == 0)
            return f"GroupNorm({groups}, {site.units})"
        case _:
            return f"RMSNorm({site.units})" if units_last else None


def joined(layers: Iterable[str]) -> str:
    """The layers of a prescription in one text; one where all are alike."""
    listed = list(layers)
    return listed[0] if len(set(listed)) == 1 else ", ".join(listed)


def parsed(text: str, sites: tuple[str, ...]) -> list[nn.Module]:
    """The layers that a prescription spells out, one for each site.

    Raises:
        PlanError: it cannot be read, or there are more or fewer than sites.
    """
    found = re.findall(r"(\w+)\(([\d,\s]+)\)", text)
    rest = re.sub(r"\w+\([\d,\s]+\)", "", text).strip(", ")
    if rest or not found:
        raise _unreadable(text)
    if len(found) == 1:
        found *= len(sites)
    if len(found) != len(sites):
        raise PlanError(
            f"norm-insertion has {len(found)} layers for {len(sites)} sites; give one for each, "
            "or a single one for all."
        )
    return [_made(kind, numbers, text) for kind, numbers in found]


def _made(kind: str, numbers: str, text: str) -> nn.Module:
    sizes = [int(number) for number in numbers.split(",") if number.strip()]
    layer, count = _KINDS.get(kind, (nn.Identity, -1))
    if len(sizes) != count:
        raise _unreadable(text)
    try:
        return layer(*sizes)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise PlanError(f"norm-insertion cannot make {kind}({numbers}): {error}.") from error


def _unreadable(text: str) -> PlanError:
    return PlanError(
        f"norm-insertion cannot read layers {text!r}; write BatchNorm1d(units), "
        "BatchNorm2d(units), BatchNorm3d(units), LayerNorm(units), GroupNorm(groups, units), "
        "RMSNorm(units) or CustomNorm(axis), one for all sites or one for each, separated by "
        "commas."
    )


# --- Starting as the identity -----------------------------------------------------------------


def start_as_identity(norm: nn.Module, input: Tensor) -> None:
    """Sets a normalisation's weight and bias so that it gives back ``input`` as well as it can.

    BatchNorm gets gamma = sigma and beta = mu of each unit, and the same running statistics: it is
    the identity then, up to rounding. What LayerNorm, GroupNorm and RMSNorm do depends on the
    sample; for each unit they get the gamma and beta with the least squared error.

    Args:
        norm: has a weight of one number per unit; written to.
        input: what it will be given, ``(batch, units, ...)`` or ``(..., units)``.
    """
    axis = input.ndim - 1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1
    x = _by_unit(input, axis)
    weight, bias = norm.weight, getattr(norm, "bias", None)
    assert isinstance(weight, Tensor)
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        variance, mean = torch.var_mean(x, 1, correction=0)
        gamma, beta = torch.sqrt(variance + norm.eps), mean
        if norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
    else:
        y = _by_unit(norm(input), axis)
        if bias is None:
            gamma, beta = (x * y).sum(1) / y.square().sum(1), None
        else:
            variance, mean = torch.var_mean(y, 1, correction=0)
            covariance = ((x - x.mean(1, keepdim=True)) * (y - mean[:, None])).mean(1)
            gamma = covariance / variance
            gamma = torch.where(gamma.isfinite(), gamma, torch.ones_like(gamma))
            beta = x.mean(1) - gamma * mean
        gamma = torch.where(gamma.isfinite(), gamma, torch.ones_like(gamma))
    weight.copy_(gamma)
    if bias is not None and beta is not None:
        bias.copy_(beta)


def _by_unit(tensor: Tensor, axis: int) -> Tensor:
    """``(units, everything else)``, in float32 at least."""
    precise = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return precise.movedim(axis, 0).flatten(1)
