"""Give dormant units new incoming weights, and outgoing ones of zero: ReDo."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.errors import PlanError
from gradscope.records import Change, Finding, Prescription, Profile, Refusal
from gradscope.remedies import (
    Remedy,
    Training,
    Undo,
    check_number,
    child,
    modules_found,
    outputs,
    sites_found,
)
from gradscope.remedies.moments import forget
from gradscope.remedies.schemes import drawable
from gradscope.remedies.wiring import layer_after, layers_with_activation, wires

__all__ = ["RecycleDormant"]

_THRESHOLD = 0.025
_STEPS = 20


@dataclass(frozen=True)
class _Between:
    """An activation, with the layers whose weights lead to it and away from it."""

    activation: nn.Module
    before: nn.Module
    behind: nn.Module


class RecycleDormant(Remedy):
    """Give dormant units new incoming weights, and outgoing ones of zero: ReDo.

    ## What it does
    Over the first steps of training (``steps`` of them), takes the mean magnitude of each unit's
    output. Units at or below ``threshold`` times the mean over the units of their layer are dormant
    (dead ones among them). These get fresh incoming weights, as the layer draws them, a bias of
    zero, and outgoing weights of zero; and what the optimizer remembers of all these is forgotten.
    What a dead unit gave to the next layer was nothing, and is nothing after it: the function
    stays, and the unit can learn again.

    ## When it applies
    An activation module between two linear layers or two convolutions of one group has dead or
    dormant units, and the weights of both are trained and their own: not frozen, parametrised or
    shared.

    ## When it must not be applied
    To pruned networks, and to layers whose units are quiet by intent. A unit that only wakes for
    samples that did not come up in these steps loses what it knew.

    ## Fix safety
    Unsafe: weights change, once, in training. Units that are dormant and not dead change the
    function a little.

    ## References
    Sokar, Agarwal, Castro, Evci 2023 (The dormant neuron phenomenon in deep reinforcement
    learning), section 4, which repeats it all through training.
    """

    name = "recycle-dormant"
    changes = (Change.PARAMETERS, Change.TRAINING)
    treats = ("GS201", "GS203")
    parameters: ClassVar[dict[str, str]] = {
        "threshold": "share of its layer's mean magnitude at or below which a unit is dormant "
        f"(default {_THRESHOLD:g})",
        "steps": f"training steps observed before recycling (default {_STEPS})",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        found = _between(model)
        ends = outputs(model, profile)
        faulty = modules_found(model, profile, finding)
        if not finding.sites:
            faulty = {id(module) for module in model.modules()}
        sites = [
            name
            for name, each in found.items()
            if id(each.activation) in faulty and id(each.activation) not in ends
        ]
        refused = self.refused_calls(sites_found(profile, finding))
        if sites:
            reason = "units that give nothing start anew, and the function stays as it is"
            recycled = self.prescription(finding, reason, sites, threshold=_THRESHOLD, steps=_STEPS)
            return [recycled, *refused]
        return [*refused] or [
            self.refusal(
                "no activation module stands between two linear layers or two convolutions whose "
                "weights are trained and their own, as far as the forward can be traced"
            )
        ]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        weights = [
            parameter
            for place in self._places(model, prescription)
            for layer in (place.before, place.behind)
            for parameter in layer.parameters(recurse=False)
        ]
        values = [parameter.detach().clone() for parameter in weights]

        def undo() -> None:
            with torch.no_grad():
                for parameter, value in zip(weights, values, strict=True):
                    parameter.copy_(value)

        return undo

    def _places(self, model: nn.Module, prescription: Prescription) -> list[_Between]:
        found = _between(model)
        for site in prescription.sites:
            module = child(model, site, self.name)
            if site not in found:
                raise PlanError(
                    f"{self.name} is prescribed for {site!r}, a {type(module).__name__}; it needs "
                    "an activation module that one linear layer or convolution leads to, and "
                    "another away from, with weights that are trained and their own."
                )
        return [found[site] for site in prescription.sites]

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        settings = prescription.parameters
        threshold = check_number(
            self.name, "threshold", settings.get("threshold", _THRESHOLD), high=1
        )
        steps = int(check_number(self.name, "steps", settings.get("steps", _STEPS), whole=True))

        def prepare(model: nn.Module, optimizer: Optimizer, planned: int | None) -> Undo:
            # Half of a short training has to be left to what the units learn then.
            looked_at = steps if planned is None else max(1, min(steps, planned // 2))
            places = self._places(model, prescription)
            return _Recycling(places, optimizer, threshold, looked_at).stop

        return replace(training, prepare=(*training.prepare, prepare))


class _Recycling:
    """Looks at some steps of a training, recycles units once, and is idle from then on."""

    def __init__(
        self, places: list[_Between], optimizer: Optimizer, threshold: float, steps: int
    ) -> None:
        self._places, self._threshold, self._left = places, threshold, steps
        self._magnitudes: list[Tensor | None] = [None] * len(places)
        self._optimizer = optimizer
        self._handles = [
            place.activation.register_forward_hook(self._look(index))
            for index, place in enumerate(places)
        ]
        self._handle = optimizer.register_step_post_hook(self._after_step)

    def stop(self) -> None:
        self._look_away()
        self._handle.remove()

    def _look_away(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, index: int) -> Any:
        def look(module: nn.Module, _: Any, output: Tensor) -> None:
            if not module.training:
                return
            axis = -1 if isinstance(self._places[index].before, nn.Linear) else 1
            seen = output.detach().abs().float().movedim(axis, 0).flatten(1).mean(1)
            before = self._magnitudes[index]
            self._magnitudes[index] = seen if before is None else before + seen

        return look

    def _after_step(self, *_: Any) -> None:
        self._left -= 1
        if self._left:
            return
        self._look_away()
        with torch.no_grad():
            for place, magnitude in zip(self._places, self._magnitudes, strict=True):
                if magnitude is not None:
                    dormant = magnitude <= self._threshold * magnitude.mean()
                    recycle(place.before, place.behind, dormant, self._optimizer)


def recycle(
    before: nn.Module, behind: nn.Module, units: Tensor, optimizer: Optimizer | None = None
) -> None:
    """Recycles units between two layers, in place.

    Args:
        before: its rows ``units`` are drawn as a new layer of its kind draws them; their biases
            become zero.
        behind: its columns ``units`` become zero.
        units: boolean, ``(units,)``.
        optimizer: forgets what it remembers of them.
    """
    fresh = copy.deepcopy(before)
    fresh.reset_parameters()  # type: ignore[operator]
    weight, bias = cast(nn.Parameter, before.weight), cast("nn.Parameter | None", before.bias)
    away = cast(nn.Parameter, behind.weight)
    weight[units] = cast(Tensor, fresh.weight)[units]
    away[:, units] = 0
    changed = [(weight, _mask(weight, units, 0)), (away, _mask(away, units, 1))]
    if bias is not None:
        bias[units] = 0
        changed.append((bias, units))
    for parameter, elements in changed:
        if optimizer is not None:
            forget(optimizer, parameter, elements)


def _mask(parameter: Tensor, units: Tensor, axis: int) -> Tensor:
    shape = [1] * parameter.ndim
    shape[axis] = -1
    return units.reshape(shape).expand_as(parameter)


def _between(model: nn.Module) -> dict[str, _Between]:
    """By name, the activations between two layers whose rows and columns are its units."""
    found = wires(model)
    own = {model.get_submodule(name) for name in drawable(model)}
    places = {}
    for before, activation in layers_with_activation(model, found).items():
        behind = layer_after(model, found, activation)
        if behind is not None:
            one, other = model.get_submodule(before), model.get_submodule(behind)
            if {one, other} <= own and _fit(one, other):
                places[activation] = _Between(model.get_submodule(activation), one, other)
    return places


def _fit(before: nn.Module, behind: nn.Module) -> bool:
    if isinstance(before, nn.Linear) and isinstance(behind, nn.Linear):
        return before.out_features == behind.in_features
    plain = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (
        isinstance(before, plain)
        and isinstance(behind, plain)
        and before.groups == behind.groups == 1
        and before.out_channels == behind.in_channels
    )
