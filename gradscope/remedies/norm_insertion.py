"""Insert a normalisation layer before each activation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal, SiteProfile
from gradscope.remedies import Remedy, Undo, parent_and_name, replaceable

__all__ = ["NormInsertion"]

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)

# Below this many samples the statistics of BatchNorm are mostly noise (Wu, He 2018, figure 1).
_SMALLEST_BATCH = 8

# The layers that a prescription may spell out, and how many sizes each takes.
_SIZES = {"BatchNorm1d": 1, "BatchNorm2d": 1, "BatchNorm3d": 1, "LayerNorm": 1, "GroupNorm": 2}


class NormInsertion(Remedy):
    """Insert a normalisation layer before each activation.

    ## What it does
    Each activation module becomes a small sequence: the normalisation, then the activation. All
    other names and state_dict keys stay. BatchNorm standardises each unit over the batch,
    LayerNorm each sample over its units (GroupNorm with one group after convolutions).

    ## When it applies
    The gradient decays or grows over depth, activations are saturated or dead, or the forward
    signal collapses; and the model has activation modules of its own, each used once.

    ## When it must not be applied
    Where normalisation layers are already there. BatchNorm: with batches below 8 samples.

    ## Fix safety
    Unsafe: the function changes at once, so weights that are trained lose what they learned;
    parameters are added.

    ## References
    The slides (Normalize Inside Network); Ioffe, Szegedy 2015; Ba, Kiros, Hinton 2016.
    """

    name = "norm-insertion"
    changes = (Change.STRUCTURE,)
    treats = ("GS101", "GS102", "GS201", "GS202", "GS204")
    parameters: ClassVar[dict[str, str]] = {
        "layers": "the layer for all sites, such as BatchNorm1d(128), or one for each in order, "
        "separated by commas"
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if any(isinstance(module, _NORMS) for module in model.modules()):
            return [self.refusal("the model already has normalisation layers")]
        sites = [site for site in profile.activations if not site.is_output]
        if not sites:
            return [self.refusal("there is no activation module to put a normalisation before")]
        if refused := self.refused_calls(sites):
            return [*refused]
        reused = [site.name for site in sites if "@" in site.name]
        if reused:
            return [
                self.refusal(
                    "an activation module is used more than once; give each use its own", reused
                )
            ]
        names = [site.name for site in sites]
        own = [name for name in names if any(model.get_submodule(name).parameters())]
        if own:
            return [self.refusal("an activation has parameters, whose names would change", own)]
        fused = sorted(set(names) - set(replaceable(model, (nn.Module,))))
        if fused:
            return [self.refusal("an activation is part of a fused layer", fused)]
        proposals: list[Prescription | Refusal] = []
        batch_norms = [_batch_norm(site) for site in sites]
        if profile.batch_size < _SMALLEST_BATCH:
            proposals.append(
                self.refusal(
                    f"BatchNorm over {profile.batch_size} samples is mostly noise; "
                    f"it needs at least {_SMALLEST_BATCH}"
                )
            )
        elif all(batch_norms):
            proposals.append(
                self.prescription(
                    finding,
                    "BatchNorm gives every unit zero mean and unit variance over the batch",
                    names,
                    layers=_joined(filter(None, batch_norms)),
                )
            )
        else:
            proposals.append(
                self.refusal("BatchNorm needs units in dimension 1, and here they are in the last")
            )
        proposals.append(
            self.prescription(
                finding,
                "LayerNorm gives every sample zero mean and unit variance over its units",
                names,
                layers=_joined(map(_layer_norm, sites)),
            )
        )
        return proposals

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        layers = _parsed(str(prescription.parameters.get("layers", "")), prescription.sites)
        places = [parent_and_name(model, site, self.name) for site in prescription.sites]
        originals = [(parent, name, getattr(parent, name)) for parent, name in places]
        like = next(model.parameters(), torch.empty(0))
        for (parent, name, original), norm in zip(originals, layers, strict=True):
            norm.to(device=like.device, dtype=like.dtype)
            replacement = nn.Sequential(norm, original)
            replacement.training = norm.training = original.training
            setattr(parent, name, replacement)

        def undo() -> None:
            for parent, name, original in originals:
                setattr(parent, name, original)

        return undo


def _batch_norm(site: SiteProfile) -> str | None:
    """The BatchNorm for a site's layout, None where there is none for it."""
    dimensions = len(site.shape)
    if site.unit_axis != 1 or dimensions > 5:
        return None
    return f"BatchNorm{max(1, dimensions - 2)}d({site.units})"


def _layer_norm(site: SiteProfile) -> str:
    if site.unit_axis == len(site.shape) - 1:
        return f"LayerNorm({site.units})"
    return f"GroupNorm(1, {site.units})"


def _joined(layers: Iterable[str]) -> str:
    listed = list(layers)
    return listed[0] if len(set(listed)) == 1 else ", ".join(listed)


def _parsed(text: str, sites: tuple[str, ...]) -> list[nn.Module]:
    """The layers that a prescription spells out, one for each site."""
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
    layers: list[nn.Module] = []
    for kind, numbers in found:
        sizes = [int(number) for number in numbers.split(",") if number.strip()]
        if len(sizes) != _SIZES.get(kind):
            raise _unreadable(text)
        try:
            layers.append(getattr(nn, kind)(*sizes))
        except ValueError as error:
            raise PlanError(f"norm-insertion cannot make {kind}({numbers}): {error}.") from error
    return layers


def _unreadable(text: str) -> PlanError:
    return PlanError(
        f"norm-insertion cannot read layers {text!r}; write BatchNorm1d(units), "
        "BatchNorm2d(units), BatchNorm3d(units), LayerNorm(units) or GroupNorm(groups, units), "
        "one for all sites or one for each, separated by commas."
    )
