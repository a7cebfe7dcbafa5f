"""Insert a normalisation layer before each activation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal, SiteProfile
from gradscope.remedies import Remedy, Undo, parent_and_name, replaceable
from gradscope.remedies.first_batch import on_first_batch
from gradscope.remedies.freshness import is_trained
from gradscope.remedies.norms import CustomNorm, joined, parsed, spelled, start_as_identity

__all__ = ["NormInsertion"]

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    CustomNorm,
)

# Below this many samples the statistics of BatchNorm are mostly noise (Wu, He 2018, figure 1).
_SMALLEST_BATCH = 8

_REASONS = {
    "BatchNorm": "BatchNorm gives every unit zero mean and unit variance over the batch",
    "LayerNorm": "LayerNorm gives every sample zero mean and unit variance over its units",
    "GroupNorm": "GroupNorm standardises each sample over groups of channels, whatever the batch",
    "RMSNorm": "RMSNorm gives every position of a sequence unit RMS over its units",
}


class NormInsertion(Remedy):
    """Insert a normalisation layer before each activation.

    ## What it does
    Each activation module becomes a small sequence: the normalisation, then the activation. All
    other names and state_dict keys stay. BatchNorm standardises each unit over the batch;
    LayerNorm, GroupNorm and RMSNorm each sample over its units, groups of channels, or by its RMS;
    CustomNorm is the slides': each unit over the batch, without parameters. CustomNorm is never
    proposed, since in ``eval()`` too what it makes of a sample depends on the samples beside it,
    which a test on large batches does not show; write ``CustomNorm(1)``, with the dimension of the
    units, into a plan.

    Before trained weights the layer starts as the identity (``start`` is ``identity``): on the
    first batch that the model sees, gamma is set to the standard deviation and beta to the mean of
    what arrives. With BatchNorm the function is then what it was, up to rounding; what a layer that
    looks at single samples does, comes as near as gamma and beta of each unit can.

    ## When it applies
    The gradient decays or grows over depth, activations are saturated or dead, or the forward
    signal collapses; and the model has activation modules of its own, each used once. Which layer:
    by the layout, the size of the batch, and whether the weights are trained.

    ## When it must not be applied
    Where normalisation layers are already there. BatchNorm and CustomNorm: with batches below 8
    samples. CustomNorm also where single samples are to be evaluated. To start as the identity in
    several processes, pass one batch before wrapping the model in DDP, so that all start alike.

    ## Fix safety
    Unsafe: the function changes at once, unless the layer starts as the identity, and then with
    the first step; parameters are added.

    ## References
    The slides (Normalize Inside Network); Ioffe, Szegedy 2015; Ba, Kiros, Hinton 2016; Wu, He 2018
    (GroupNorm); Zhang, Sennrich 2019 (RMSNorm).
    """

    name = "norm-insertion"
    changes = (Change.STRUCTURE,)
    treats = ("GS101", "GS102", "GS201", "GS202", "GS204", "GS206")
    parameters: ClassVar[dict[str, str]] = {
        "layers": "the layer for all sites, such as BatchNorm1d(128), or one for each in order, "
        "separated by commas",
        "start": "`standard`, or `identity`: as near to the identity as the layer can be on the "
        "first batch",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        if any(isinstance(module, _NORMS) for module in model.modules()):
            return [self.refusal("the model already has normalisation layers")]
        sites = [site for site in profile.activations if not site.is_output]
        if refused := self._refused(sites, model):
            return refused
        names = [site.name for site in sites]
        trained = is_trained(profile)
        proposals: list[Prescription | Refusal] = []
        for kind in _kinds(sites):
            if kind == "BatchNorm" and profile.batch_size < _SMALLEST_BATCH:
                proposals.append(
                    self.refusal(
                        f"{kind} over {profile.batch_size} samples is mostly noise; "
                        f"it needs at least {_SMALLEST_BATCH}"
                    )
                )
                continue
            layers = [spelled(kind, site) for site in sites]
            if not all(layers):
                reason = f"{kind} needs units in dimension 1, and here they are in the last"
                proposals.append(self.refusal(reason))
                continue
            extra = {"start": "identity"} if trained else {}
            start = "; it starts as the identity, since the weights are trained" if trained else ""
            proposals.append(
                self.prescription(
                    finding,
                    _REASONS[kind] + start,
                    names,
                    layers=joined(filter(None, layers)),
                    **extra,
                )
            )
        return proposals

    def _refused(self, sites: list[SiteProfile], model: nn.Module) -> list[Prescription | Refusal]:
        if not sites:
            return [self.refusal("there is no activation module to put a normalisation before")]
        calls = [site for site in sites if site.is_call]
        if calls:
            layer = spelled("BatchNorm", calls[0]) or spelled("LayerNorm", calls[0])
            operator = calls[0].operator
            return [
                *self.refused_calls(
                    calls,
                    f"make it a module (nn.ReLU() in place of F.relu), or write self.norm = "
                    f"nn.{layer} in __init__() and {operator}(self.norm(x)) in place of "
                    f"{operator}(x)",
                )
            ]
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
        return []

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        start = prescription.parameters.get("start", "standard")
        if start not in ("standard", "identity"):
            raise PlanError(f"{self.name} needs `standard` or `identity` for start, not {start!r}.")
        layers = parsed(str(prescription.parameters.get("layers", "")), prescription.sites)
        if start == "identity" and any(isinstance(layer, CustomNorm) for layer in layers):
            raise PlanError(
                f"{self.name} cannot start CustomNorm as the identity: it has no parameters."
            )
        places = [parent_and_name(model, site, self.name) for site in prescription.sites]
        originals = [(parent, name, getattr(parent, name)) for parent, name in places]
        for site, (_, _, original) in zip(prescription.sites, originals, strict=True):
            if original.state_dict():
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, a {type(original).__name__} with "
                    "parameters or buffers, whose names would change; it needs an activation "
                    "module without."
                )
        floating = (each for each in model.parameters() if each.is_floating_point())
        like = next(floating, torch.empty(0))
        replacements = []
        for norm, (_, _, original) in zip(layers, originals, strict=True):
            norm.to(device=like.device, dtype=like.dtype)
            replacement = nn.Sequential(norm, original)
            replacement.training = norm.training = original.training
            if start == "identity":
                on_first_batch(norm, start_as_identity)
            replacements.append(replacement)
        for (parent, name, _), replacement in zip(originals, replacements, strict=True):
            setattr(parent, name, replacement)

        def undo() -> None:
            for parent, name, original in originals:
                setattr(parent, name, original)

        return undo


def _kinds(sites: list[SiteProfile]) -> list[str]:
    """Which layers suit what the sites put out, best first."""
    if all(site.unit_axis == 1 and len(site.shape) > 2 for site in sites):
        return ["BatchNorm", "GroupNorm"]
    if any(len(site.shape) > 2 and site.unit_axis == len(site.shape) - 1 for site in sites):
        return ["LayerNorm", "RMSNorm", "BatchNorm"]
    return ["BatchNorm", "LayerNorm"]
