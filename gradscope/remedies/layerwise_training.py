"""Train a few layers at a time, from the input on, each new group first by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from gradscope.errors import PlanError
from gradscope.profile.operators import role_of
from gradscope.records import Change, Finding, Prescription, Profile, Refusal, Role
from gradscope.remedies import Remedy, Training, Undo, before_update, check_number, child
from gradscope.remedies.skip_connection import keeps_shape
from gradscope.remedies.wiring import chain, wires

__all__ = ["LayerwiseTraining", "Stage", "stages"]

# Of the slides: groups of two layers, of seven.
_LAYERS_PER_GROUP = 2
_STEPS = 100
# Of a training that is known to be short, the last stage, which trains all, gets this share.
_LAST_SHARE = 0.4

_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Stage = tuple[int, tuple[int, ...]]
"""How many groups are in the model, and which of them are trained."""


def stages(groups: int) -> list[Stage]:
    """The slides' stages: each group alone on top of fixed ones, then all that there are together.

    Four groups make seven stages; groups are numbered from 0.
    """
    found: list[Stage] = [(1, (0,))]
    for number in range(2, groups + 1):
        found += [(number, (number - 1,)), (number, tuple(range(number)))]
    return found


class LayerwiseTraining(Remedy):
    """Train a few layers at a time, from the input on, each new group first by itself.

    ## What it does
    Hidden layers are taken in groups of two. Training starts with the first group alone: data go
    around all others. Then the second is put in, and trained while the first is fixed; then both
    are trained; then the third while the first two are fixed; and so on, until all are trained. For
    seven hidden layers these are the seven stages of the slides. What lies before and behind the
    groups (the output layer) is trained at all times. ``steps`` is the length of each stage but the
    last; of a training that is known to be short they take 60 % together.

    A group that data go around still runs, and its output is dropped, so that a step of any stage
    takes as long as one of the last. A model that is evaluated before the last stage is the
    shallower one.

    ## When it applies
    The gradient vanishes over the depth of a plain chain of modules: none of the stages has to send
    it through more than one group that has not been trained before. Every group but the first
    must give back the shape that it takes.

    ## When it must not be applied
    To models with branches; to trained weights, which are not used in the first stages.

    ## Fix safety
    Safe: the model is unchanged, and whole in the last stage. Only its training is another.

    ## References
    The slides (Train Some Layer); Bengio, Lamblin, Popovici, Larochelle 2007 (Greedy layer-wise
    training of deep networks); Belilovsky, Eickenberg, Oyallon 2019.
    """

    name = "layerwise-training"
    changes = (Change.TRAINING,)
    treats = ("GS101", "GS204")
    parameters: ClassVar[dict[str, str]] = {
        "groups": "how many of the sites each group has, such as `4 4 4 2`",
        "steps": f"of each stage but the last (default {_STEPS})",
    }

    def propose(
        self, finding: Finding, profile: Profile, model: nn.Module
    ) -> list[Prescription | Refusal]:
        names = chain(wires(model))
        if names is None:
            return [
                self.refusal(
                    "the forward is no plain chain, as far as it can be traced; train the first "
                    "layers with a head of their own, then put others between, by hand"
                )
            ]
        blocks = _blocks(model, names)
        if len(blocks) < 2 * _LAYERS_PER_GROUP:
            return [
                self.refusal(
                    "there are too few hidden layers, made of modules, that give back the shape "
                    "they take"
                )
            ]
        pairs = [
            [name for block in blocks[start : start + _LAYERS_PER_GROUP] for name in block]
            for start in range(0, len(blocks), _LAYERS_PER_GROUP)
        ]
        return [
            self.prescription(
                finding,
                f"in {2 * len(pairs) - 1} stages, the gradient passes few untrained layers at a "
                "time",
                [name for pair in pairs for name in pair],
                groups=" ".join(str(len(pair)) for pair in pairs),
                steps=_STEPS,
            )
        ]

    def apply(self, model: nn.Module, prescription: Prescription) -> Undo:
        first, *others = _grouped(prescription)
        for site in first:
            child(model, site, self.name)
        for site in (site for group in others for site in group):
            module = child(model, site, self.name)
            if type(module) in _PLAIN and not keeps_shape(module):
                raise PlanError(
                    f"{self.name} has {site!r} in a group that data pass by at first, but this "
                    f"{type(module).__name__} gives back another shape than it takes."
                )
        return lambda: None

    def retrain(self, training: Training, prescription: Prescription) -> Training:
        _sizes(prescription)
        given = prescription.parameters.get("steps", _STEPS)
        steps = int(check_number(self.name, "steps", given, whole=True))

        def prepare(model: nn.Module, optimizer: Optimizer, planned: int | None) -> Undo:
            modules = [
                [child(model, site, self.name) for site in group]
                for group in _grouped(prescription)
            ]
            before = len(stages(len(modules))) - 1
            length = steps
            if planned is not None:
                length = max(1, min(steps, int((1 - _LAST_SHARE) * planned / before)))
            return _Staged(modules, optimizer, length).stop

        return replace(training, prepare=(*training.prepare, prepare))


class _Staged:
    """Leads data past groups and holds others fixed; is idle in the last stage."""

    def __init__(self, groups: list[list[nn.Module]], optimizer: Optimizer, steps: int) -> None:
        self._groups, self._steps = groups, steps
        self._left = stages(len(groups))
        self._taken = 0
        self._passing: list[Any] = []
        self._fixing = before_update(optimizer, self._before)
        self._handle = optimizer.register_step_post_hook(self._after)
        self._enter()

    def _enter(self) -> None:
        for handle in self._passing:
            handle.remove()
        present, trained = self._left[0]
        self._passing = [
            module.register_forward_hook(_pass_by)
            for group in self._groups[present:]
            for module in group
        ]
        self._fixed = [
            parameter
            for number, group in enumerate(self._groups)
            if number not in trained
            for module in group
            for parameter in module.parameters()
        ]

    def _before(self) -> None:
        # An optimizer leaves what has no gradient as it is, weight decay and momentum included.
        for parameter in self._fixed:
            parameter.grad = None

    def _after(self, *_: Any) -> None:
        self._taken += 1
        if self._taken % self._steps == 0 and len(self._left) > 1:
            self._left.pop(0)
            self._enter()
            if len(self._left) == 1:
                self._let_go()

    def _let_go(self) -> None:
        for handle in (self._fixing, *self._passing):
            handle.remove()

    def stop(self) -> None:
        self._let_go()
        self._handle.remove()


def _pass_by(_: nn.Module, arguments: tuple[Any, ...], __: Any) -> Any:
    return arguments[0]


def _sizes(prescription: Prescription) -> list[int]:
    """How many sites each group has, as the prescription says."""
    text = str(prescription.parameters.get("groups", ""))
    sizes = [int(each) for each in text.split() if each.isdecimal()]
    if len(sizes) != len(text.split()) or len(sizes) < 2 or 0 in sizes:
        raise PlanError(
            f"layerwise-training cannot read groups {text!r}; write how many sites each group has, "
            "two groups or more, such as `4 4 4 2`."
        )
    return sizes


def _grouped(prescription: Prescription) -> list[tuple[str, ...]]:
    """The sites in groups."""
    found, start = [], 0
    for size in _sizes(prescription):
        found.append(prescription.sites[start : start + size])
        start += size
    if start != len(prescription.sites):
        raise PlanError(
            f"layerwise-training has {len(prescription.sites)} sites, and groups of {start} in all."
        )
    return found


def _blocks(model: nn.Module, names: list[str]) -> list[list[str]]:
    """Layers of a chain, each with what follows it, that data can be led past.

    The first one takes whatever shape the data have; the last one, the output, is none.
    """
    blocks: list[list[str]] = []
    for name in names:
        module = model.get_submodule(name) if name else None
        if module is not None and role_of(module) is Role.LAYER:
            blocks.append([name])
        elif blocks:
            blocks[-1].append(name)
    hidden = blocks[:-1]
    while hidden and not all(
        name and _same_shape(model.get_submodule(name)) for name in hidden[-1]
    ):
        hidden.pop()
    start = len(hidden)
    while start > 1 and all(
        name and _same_shape(model.get_submodule(name)) for name in hidden[start - 1]
    ):
        start -= 1
    # The one before those that keep shapes belongs to the first group, which is never passed by.
    return hidden[max(0, start - 1) :]


def _same_shape(module: nn.Module) -> bool:
    if role_of(module) is Role.LAYER:
        return keeps_shape(module)
    plain = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
    return isinstance(module, plain) or role_of(module) in (Role.ACTIVATION, Role.NORMALISATION)
