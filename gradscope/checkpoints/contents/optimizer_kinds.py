"""Recognises torch's optimizers by the settings of their groups and by what they keep."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["NUMBERS", "SLOTS", "kind_of", "why_unknown"]


@dataclass(frozen=True)
class _Kind:
    """How one is told from the others.

    Attributes:
        name: of the class.
        settings: which all of its groups have.
        slots: what it may keep for a parameter.
        without: settings that it does not have, and another one does.
    """

    name: str
    settings: frozenset[str]
    slots: frozenset[str]
    without: frozenset[str] = frozenset()


def _kind(name: str, settings: str, slots: str, without: str = "") -> _Kind:
    return _Kind(
        name, frozenset(settings.split()), frozenset(slots.split()), frozenset(without.split())
    )


_KINDS: Final = (
    _kind("SGD", "momentum dampening nesterov", "momentum_buffer"),
    _kind("Adam", "betas eps amsgrad", "step exp_avg exp_avg_sq max_exp_avg_sq", "final_lr"),
    _kind("NAdam", "betas eps momentum_decay", "step mu_product exp_avg exp_avg_sq"),
    _kind(
        "RAdam",
        "betas eps decoupled_weight_decay",
        "step exp_avg exp_avg_sq",
        "amsgrad momentum_decay",
    ),
    _kind("Adamax", "betas eps", "step exp_avg exp_inf", "amsgrad decoupled_weight_decay"),
    _kind("RMSprop", "alpha eps centered", "step square_avg momentum_buffer grad_avg"),
    _kind("Adagrad", "lr_decay initial_accumulator_value", "step sum"),
    _kind("Adafactor", "beta2_decay eps d", "step row_var col_var variance"),
    _kind("Muon", "momentum ns_coefficients ns_steps", "momentum_buffer"),
)

_NOT_READ: Final = {
    "rho": "Adadelta",
    "lambd": "ASGD",
    "etas": "Rprop",
    "history_size": "LBFGS",
    "scale_parameter": "Adafactor of transformers",
    "correct_bias": "AdamW of transformers",
    "bias_correction": "a fused Adam or LAMB",
}
"""Others, by a setting that they have."""

SLOTS: Final = frozenset[str]().union(*(kind.slots for kind in _KINDS))
"""Everything that one of them keeps for a parameter."""

NUMBERS: Final = frozenset({"step", "mu_product"})
"""Of these, what is one number."""

_EIGHT_BIT: Final = frozenset({"state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"})


def kind_of(groups: Sequence[Mapping[str, Any]], slots: Collection[str]) -> str:
    """Name of the class; ``Adam or AdamW`` where nothing tells; empty where it is none of torch's.

    Args:
        groups: ``param_groups``.
        slots: what is kept for any of the parameters.
    """
    for kind in _KINDS:
        if not kind.slots.issuperset(slots):
            continue
        if not all(
            kind.settings <= group.keys() and kind.without.isdisjoint(group) for group in groups
        ):
            continue
        if kind.name == "Adamax" and "exp_inf" not in slots:
            continue
        return _adam(groups) if kind.name == "Adam" else kind.name
    return ""


def _adam(groups: Sequence[Mapping[str, Any]]) -> str:
    """Since torch 2.7, AdamW is an Adam whose settings say that weight decay is decoupled."""
    decoupled = {group.get("decoupled_weight_decay") for group in groups}
    if decoupled == {True}:
        return "AdamW"
    return "Adam" if decoupled == {False} else "Adam or AdamW"


def why_unknown(groups: Sequence[Mapping[str, Any]], slots: Collection[str]) -> str:
    """Of what ``kind_of`` does not know: what it is, and that it is not read."""
    if not _EIGHT_BIT.isdisjoint(slots):
        return "is an 8-bit optimizer of bitsandbytes, whose quantised state is not read"
    for setting, name in _NOT_READ.items():
        if any(setting in group for group in groups):
            return f"is {name}, which is not read"
    told = ", ".join(sorted({str(key) for group in groups for key in group} - {"params"}))
    return f"is an optimizer that is not known (its settings are {told:.200})"
