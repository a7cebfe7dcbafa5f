"""Compute in a number format with more range: bfloat16 all over, or float32 where it overflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo, child, sites_found
from gradscope.remedies.overlay import Overlay, lay_over, take_off

__all__ = ["Precision"]

_FORMATS = ("bfloat16", "float32")


class InFloat32(Overlay):
    """A module that computes in float32 whatever surrounds it.

    Outside autocast, the output is given back in the type of the first input.
    """

    def forward(self, *arguments: Any, **named: Any) -> Any:
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        autocast = torch.is_autocast_enabled(device)
        module = cast(nn.Module, self)
        tensors_of = dict(module.named_parameters()) | dict(module.named_buffers())
        with torch.autocast(device, enabled=False):
            given = _cast(arguments, torch.float32), _cast(named, torch.float32)
            if any(
                each.is_floating_point() and each.dtype != torch.float32
                for each in tensors_of.values()
            ):
                output = _with(module, super().forward, tensors_of, *given)  # type: ignore[misc]
            else:
                output = super().forward(*given[0], **given[1])  # type: ignore[misc]
        floating = [each.dtype for each in tensors if each.is_floating_point()]
        return output if autocast or not floating else _cast(output, floating[0])


class InBfloat16(Overlay):
    """A module whose operations run under autocast to bfloat16, also inside another autocast.

    Outside autocast, the output is given back in float32 where the first input is float32: what
    stands behind may be none of these modules.
    """

    def forward(self, *arguments: Any, **named: Any) -> Any:
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        floating = [each.dtype for each in tensors if each.is_floating_point()]
        outside = not torch.is_autocast_enabled(device) and floating[:1] == [torch.float32]
        with torch.autocast(device, dtype=torch.bfloat16):
            given = _cast(arguments, torch.bfloat16), _cast(named, torch.bfloat16)
            output = super().forward(*given[0], **given[1])  # type: ignore[misc]
        return _cast(output, torch.float32) if outside else output


_OVERLAYS: dict[str, type[Overlay]] = {"bfloat16": InBfloat16, "float32": InFloat32}


class Precision(Remedy):
    """Compute in a number format with more range: bfloat16 all over, or float32 where it overflows.

    ## What it does
    ``float32``: the modules at which numbers come near the end of float16, or pass it, compute in
    float32, with their weights as they are stored: an island, from which autocast goes on.
    ``bfloat16``: the whole model runs under autocast to bfloat16, which has the range of float32
    and fewer digits. Weights, names and state_dict keys stay; only classes change to subclasses.

    ## When it applies
    Something is computed in float16, and outputs or gradients leave its range: too large (infinite)
    or too small (zero).

    ## When it must not be applied
    Where nothing is computed in float16: what overflows float32 explodes in any format. An island
    in a model whose weights are float16 hands its output back in float16, where it must fit; it
    saves sums inside the module only.

    ## Fix safety
    Unsafe: outputs are rounded elsewhere, so they change in their last digits.

    ## References
    Micikevicius et al. 2018 (Mixed precision training), section 3; Kalamkar et al. 2019 (A study of
    bfloat16 for deep learning training).
    """

    name = "precision"
    changes = (Change.FORWARD,)
    treats = ("GS401", "GS402")
    parameters: ClassVar[dict[str, str]] = {"format": f"one of {', '.join(_FORMATS)}"}

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        short = [site for site in profile.sites if site.dtype == "float16"]
        if not short:
            return [
                self.refusal(
                    "nothing is computed in float16; what leaves the range of a wider type "
                    "explodes in any"
                )
            ]
        where = [site for site in sites_found(profile, finding) if site in short] or short[-1:]
        names = list(
            dict.fromkeys(site.module for site in where if not site.is_call and site.module)
        )
        proposals: list[Prescription | Refusal] = []
        if names:
            reason = "what leaves float16's range there fits into float32"
            proposals.append(self.prescription(finding, reason, names, format="float32"))
        else:
            proposals.append(
                self.refusal(
                    "a function is called there; write "
                    "`with torch.autocast(device, enabled=False):` around it, and .float() behind "
                    "its arguments",
                    [site.name for site in where],
                )
            )
        roots = _outermost(model)
        if roots:
            reason = "bfloat16 has the range of float32"
            proposals.append(self.prescription(finding, reason, roots, format="bfloat16"))
        return proposals

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        chosen = prescription.parameters.get("format")
        overlay = _OVERLAYS.get(str(chosen))
        if overlay is None:
            raise PlanError(f"{self.name} has no format {chosen!r}; it has {', '.join(_FORMATS)}.")
        modules = [child(model, site, self.name) for site in prescription.sites]
        for site, module in zip(prescription.sites, modules, strict=True):
            if overlay is InBfloat16 and any(
                each.dtype == torch.float64 for each in module.parameters()
            ):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, whose parameters are float64, which "
                    "autocast leaves as they are; convert the model to float32 first."
                )
            if not _has_forward(module):
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, a {type(module).__name__}, which has "
                    "no forward of its own to run in another format."
                )
        for module in modules:
            lay_over(module, overlay)

        def undo() -> None:
            for module in reversed(modules):
                take_off(module)

        return undo


def _has_forward(module: nn.Module) -> bool:
    """Whether there is a forward to lay another format over: lists of modules have none."""
    return type(module).forward is not nn.Module.forward and not isinstance(
        module, torch.jit.ScriptModule
    )


def _outermost(module: nn.Module, path: str = "") -> list[str]:
    """Names of the largest modules below this one that have a forward."""
    return [
        name
        for key, inner in module.named_children()
        for name in ([path + key] if _has_forward(inner) else _outermost(inner, f"{path}{key}."))
    ]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """The floating point tensors in nested tuples, lists and dicts as that type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_cast(each, dtype) for each in value)
    if type(value) is dict:
        return {key: _cast(each, dtype) for key, each in value.items()}
    return value


def _with(
    module: nn.Module,
    forward: Callable[..., Any],
    tensors: dict[str, Tensor],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    """Calls ``forward`` with the module's tensors in float32; gradients reach the stored ones."""
    wide = {name: _cast(tensor, torch.float32) for name, tensor in tensors.items()}
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for name, tensor in wide.items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            for table in (owner._parameters, owner._buffers):
                if last in table:
                    kept.append((cast("dict[str, Any]", table), last, table[last]))
                    cast("dict[str, Any]", table)[last] = tensor
        return forward(*arguments, **named)
    finally:
        for table, last, value in reversed(kept):
            table[last] = value
