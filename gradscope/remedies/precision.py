"""Compute in a number format with more range: bfloat16 all over, or float32 where it overflows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradscope.errors import PlanError
from gradscope.profile.sharding import local
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import Remedy, Undo, child, sites_found
from gradscope.remedies.overlay import Overlay, lay_over, take_off

__all__ = ["Precision"]

_FORMATS = ("bfloat16", "float32")

_SHORT = (torch.float16, torch.bfloat16)

# In eval mode their kernel takes the weights of the modules inside, not the modules.
_FUSED = (nn.TransformerEncoderLayer, nn.MultiheadAttention)


class InFloat32(Overlay):
    """A module that computes in float32 whatever surrounds it.

    Outside autocast, the output is given back in the type of the first input; where no input is
    floating point, in the type that the weights were stored in.

    Attributes:
        stored: of the module's parameters that are stored in float32 for now, by name, the type
            that they had.
        hands_on: whether everything around computes in float32, too, and takes the output as it is.
    """

    stored: dict[str, torch.dtype]
    hands_on = False

    def forward(self, *arguments: Any, **named: Any) -> Any:
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            output = super().forward(*_widened(arguments), **_widened(named))  # type: ignore[misc]
        if self.hands_on or torch.is_autocast_enabled(device):
            return output
        return _as_first(tensors, output, next(iter(self.stored.values()), None))


class HandsOnFloat32(InFloat32):
    """The same among modules that all compute in float32."""

    hands_on = True


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
    ``float32``: the modules prescribed compute in float32; around them autocast goes on. Weights
    and buffers that they store in float16 or bfloat16 are stored in
    float32 while the patch is on, so that the optimizer updates them in float32 as well: in
    float16 the squared gradients of Adam and its eps are rounded to zero. They stay the same
    Parameter objects, and a gradient that they carry is converted with them. Undoing gives them
    back in the type that they had: the same bits where nothing changed them, and trained values
    rounded. Each module gives its output back in the type of its input; where all weights in short
    types are in modules prescribed, only the model as a whole does.

    ``bfloat16``: the whole model runs under autocast to bfloat16, which has the range of float32
    and fewer digits; weights stay as they are stored. Names and state_dict keys stay; classes
    change to subclasses.

    ## When it applies
    Something is computed in float16, and outputs or gradients leave its range: too large (infinite)
    or too small (zero). Where weights are stored in float16, float32 for the whole model comes
    first, the modules found second.

    ## When it must not be applied
    Where nothing is computed in float16: what overflows float32 explodes in any format. Weights
    in float32 take twice the memory. An island hands its output back in float16, where it must
    fit; it saves what is inside the module only. Where a weight is shared, all modules that hold
    it have to be prescribed. Apply it before the optimizer is built and before DDP or FSDP wraps
    the model: moments that an optimizer keeps in float16 do not go with float32 weights, and
    ``patch.build_optimizer(..., previous=...)`` leaves them behind. Weights in float64 stay.

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
        roots = _outermost(model)
        stored = roots and any(each.dtype == torch.float16 for each in model.parameters())
        if stored:
            reason = (
                "in float32, updates and gradients are not rounded to zero, nor sums to infinity"
            )
            proposals.append(self.prescription(finding, reason, roots, format="float32"))
        names = _closed(model, names)
        if names and not (stored and _hold_all(model, map(model.get_submodule, names))):
            reason = "what leaves float16's range there fits into float32"
            proposals.append(self.prescription(finding, reason, names, format="float32"))
        elif not names:
            proposals.append(
                self.refusal(
                    "a function is called there; write "
                    "`with torch.autocast(device, enabled=False):` around it, and .float() behind "
                    "its arguments",
                    [site.name for site in where],
                )
            )
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
        undos: list[Undo] = []

        def undo() -> None:
            with torch.no_grad():
                while undos:
                    undos.pop()()

        try:
            if overlay is InFloat32:
                overlay = _store_wide(model, modules, undos)
            for module in modules:
                lay_over(module, overlay)
                undos.append(partial(take_off, module))
        except PlanError:
            undo()
            raise
        except Exception as error:
            undo()
            raise PlanError(f"{self.name} cannot store the weights in float32: {error}.") from error
        return undo

    def renewed(self, model: nn.Module, prescription: Prescription) -> list[nn.Parameter]:
        """Those stored in another type: moments in the old one do not go with them."""
        modules = [child(model, site, self.name) for site in prescription.sites]
        return [
            parameter
            for module in modules
            if isinstance(module, InFloat32)
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if name in module.stored
        ]


class _GiveBack:
    """A forward hook that gives a model's output back in the type of its first input."""

    def __call__(self, _: Any, arguments: Any, named: dict[str, Any], output: Any) -> Any:
        tensors = [each for each in (*arguments, *named.values()) if isinstance(each, Tensor)]
        autocast = tensors and torch.is_autocast_enabled(tensors[0].device.type)
        return output if autocast else _as_first(tensors, output)


def _store_wide(model: nn.Module, modules: list[nn.Module], undos: list[Undo]) -> type[InFloat32]:
    """Stores what the modules store in a short type in float32; ``undos`` gets what ends it.

    Where they hold all such weights of the model's modules, the whole model computes in float32,
    and what the model itself holds goes with them.

    Returns:
        What is to be laid over them.
    """
    whole = _hold_all(model, modules)
    inside = {inner for module in ([model] if whole else modules) for inner in module.modules()}
    short = {
        id(tensor): tensor
        for module in inside
        for _, tensor in _own_tensors(module)
        if tensor.dtype in _SHORT
    }
    for name, module in model.named_modules():
        used = module.named_parameters() if isinstance(module, _FUSED) else _own_tensors(module)
        for last, tensor in used:
            if module not in inside and id(tensor) in short:
                raise PlanError(
                    f"{name or 'the model itself'!r} uses a weight ({last}) of a module that "
                    f"{Precision.name} is prescribed for; prescribe it for both."
                )
    if any(local(tensor) is not tensor for tensor in short.values()):
        raise PlanError(
            f"{Precision.name} cannot change the type of sharded weights; apply it before "
            "fully_shard."
        )
    for module in modules:
        names = {
            name: tensor.dtype
            for name, tensor in module.named_parameters(remove_duplicate=False)
            if id(tensor) in short
        }
        vars(module)["stored"] = names
        undos.append(partial(vars(module).pop, "stored", None))
    for tensor in short.values():
        undos.append(_widen(tensor))
    for module in inside:
        if isinstance(module, nn.RNNBase):
            # cuDNN wants their weights in one piece.
            module.flatten_parameters()
    if not whole:
        return InFloat32
    undos.append(model.register_forward_hook(_GiveBack(), with_kwargs=True).remove)
    return HandsOnFloat32


def _hold_all(model: nn.Module, modules: Iterable[nn.Module]) -> bool:
    """Whether these modules hold all weights in short types but those of the model itself."""
    held = {id(weight) for module in modules for weight in module.parameters()}
    short = [
        id(weight)
        for name in _outermost(model)
        for weight in model.get_submodule(name).parameters()
        if weight.dtype in _SHORT
    ]
    return bool(short) and held.issuperset(short)


def _own_tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _widen(tensor: Tensor) -> Undo:
    """Stores a tensor and its gradient in float32; what is returned puts them back, rounded."""
    stored, gradient = tensor.data, tensor.grad if tensor.is_leaf else None
    wide, wide_gradient = stored.float(), None if gradient is None else gradient.float()
    tensor.data = wide
    if gradient is not None:
        tensor.grad = wide_gradient

    def narrow() -> None:
        last = tensor.grad if tensor.is_leaf else None
        if tensor.device == stored.device:
            # Into the memory that it had: other tensors may look at it.
            stored.copy_(tensor.data)
            tensor.data = stored
        else:
            tensor.data = tensor.data.to(stored.dtype)
        if last is not None:
            tensor.grad = last.to(stored.dtype)

    return narrow


def _closed(model: nn.Module, names: list[str]) -> list[str]:
    """These modules and those that share their weights; for one in a fused kernel, all of that."""
    whole = []
    for name in names:
        path = name.split(".")
        above = (".".join(path[:count]) for count in range(1, len(path) + 1))
        whole.append(
            next((each for each in above if isinstance(model.get_submodule(each), _FUSED)), name)
        )
    held = {id(weight) for name in whole for weight in model.get_submodule(name).parameters()}
    sharing = [
        name
        for name, module in model.named_modules()
        if name
        and _has_forward(module)
        and any(id(weight) in held for weight in module.parameters(recurse=False))
        and not any(name == each or name.startswith(f"{each}.") for each in whole)
    ]
    return list(dict.fromkeys([*whole, *sharing]))


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


def _as_first(tensors: list[Tensor], output: Any, otherwise: torch.dtype | None = None) -> Any:
    """An output in the type of the first of these tensors that is floating point."""
    first = next((each.dtype for each in tensors if each.is_floating_point()), otherwise)
    return output if first is None else _cast(output, first)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """The floating point tensors in nested tuples, lists and dicts as that type."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return _inside(value, partial(_cast, dtype=dtype))


def _inside(value: Any, change: Callable[[Any], Any]) -> Any:
    if type(value) in (tuple, list):
        return type(value)(change(each) for each in value)
    if type(value) is dict:
        return {key: change(each) for key, each in value.items()}
    return value


def _widened(value: Any) -> Any:
    """The short floating point tensors in nested tuples, lists and dicts in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _SHORT else value
    return _inside(value, _widened)
