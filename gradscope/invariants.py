"""What a repair must leave as it was, checked bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradscope.batches import Batch, tensors_in
from gradscope.choosing import keeps_function
from gradscope.patch import apply
from gradscope.profile.preserve import preserved, same_bits
from gradscope.records import Change, Invariant, Plan

__all__ = ["check_invariants"]

_Step = Callable[[nn.Module, Batch], Tensor]


def check_invariants(
    model: nn.Module, plan: Plan, step: _Step, batch: Batch
) -> tuple[Invariant, ...]:
    """Applies a plan, compares, and undoes it again.

    A plan that changes only the backward pass or the training must leave outputs (in train and
    eval mode) and state_dict bit-identical; every plan must be undone without a trace. Of a plan
    that means to keep the function at the start, by layers that begin as the identity, it is
    measured and said how well it does.

    Args:
        model: left as it was.
        plan: what to check.
        step: passes ``batch`` through the model.
    """
    before, again = _observed(model, step, batch), _observed(model, step, batch)
    unsteady = [what for what in before if not _same(before[what], again[what])]
    types = [type(module) for module in model.modules()]
    changes = {change for entry in plan.prescriptions for change in entry.changes}
    checks: list[Invariant] = []
    patch = apply(model, plan)
    try:
        if changes <= {Change.BACKWARD, Change.TRAINING}:
            patched = _observed(model, step, batch)
            checks += [
                Invariant(
                    f"{what} bit-equal after patching",
                    what in unsteady or _same(before[what], patched[what]),
                    "not compared: two passes of the same batch differ" if what in unsteady else "",
                )
                for what in before
            ]
        elif all(keeps_function(entry) for entry in plan.prescriptions):
            patched = _observed(model, step, batch)
            checks += [_change(what, before, patched) for what in before if what != "state_dict"]
    finally:
        patch.undo()
    undone = _observed(model, step, batch)
    checks.append(
        Invariant(
            "undo restores outputs, weights and modules",
            all(what in unsteady or _same(before[what], undone[what]) for what in before)
            and types == [type(module) for module in model.modules()],
        )
    )
    return tuple(checks)


def _observed(model: nn.Module, step: _Step, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """The model's outputs in both modes, and its state, by name."""
    seen = {}
    for mode in ("train", "eval"):
        with preserved(model, seed=0), torch.enable_grad():
            outputs: list[Tensor] = []
            model.train(mode == "train")
            handle = model.register_forward_hook(
                lambda _, __, output, kept=outputs: kept.extend(tensors_in(output))
            )
            try:
                loss = step(model, batch)
            finally:
                handle.remove()
            seen[f"outputs ({mode})"] = {
                str(index): tensor.detach().clone() for index, tensor in enumerate([*outputs, loss])
            }
    seen["state_dict"] = {
        key: value.detach().clone()
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    return seen


def _change(
    what: str, before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]]
) -> Invariant:
    """How far an output moves at most, as a share of the largest; no limit is set for that."""
    largest = change = 0.0
    for one, other in zip(before[what].values(), after[what].values(), strict=False):
        if one.is_floating_point() and one.shape == other.shape and one.numel():
            largest = max(largest, float(one.abs().max()))
            change = max(change, float((other - one).abs().max()))
    share = change / largest if largest else change
    return Invariant(
        f"{what} kept at the start", True, f"largest change: {share:.1e} of the largest"
    )


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Same names in the same order, same bits."""
    return list(one) == list(other) and all(
        same_bits(left, right) for left, right in zip(one.values(), other.values(), strict=True)
    )
