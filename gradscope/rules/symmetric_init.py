"""GS302: units that start alike and stay alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gradscope.records import (
    Finding,
    Measure,
    ParameterProfile,
    Profile,
    Role,
    Severity,
    SiteProfile,
    Source,
)
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.stored import Stored
from gradscope.subject import Subject

__all__ = ["Limits", "SymmetricInit"]


@dataclass(frozen=True)
class Limits:
    symmetric: float = limit(
        0.0, "share of a weight's rows", "chosen: any; healthy networks have none"
    )
    duplicates: float = limit(
        0.5, "share of a weight's rows", "most of them; healthy networks have none"
    )


class SymmetricInit(Rule[Limits]):
    """Units that start alike and stay alike.

    ## What it does
    A row of a layer's weight holds what one unit takes from its inputs. The rule looks for rows of
    hidden layers that equal another row of the same weight before the first step. Where the
    gradients of the two rows are equal as well at every step, no training can ever tell them apart:
    that is an error. So are hidden layers of zeros that no gradient reaches, because what stands
    behind them is zero too. Where most rows are equal but their gradients differ, as by dropout or
    random biases, they part, but slowly: that is a warning. Last layers, which may start at zero,
    and branches that start at zero beside a trunk (LoRA, ReZero, zero-initialised residual
    branches) are left out.

    In a checkpoint it counts rows of hidden weights that equal another one, and fires where most
    do.

    ## Why it is bad
    Units that compute the same thing and get the same gradient stay copies of each other, so that a
    layer of a hundred such units is a layer of one. If all weights are zero, nothing but the last
    bias learns.

    What to do: draw weights at random (``torch.nn.init.kaiming_normal_``, ``xavier_normal_``, or
    what PyTorch's layers do by themselves) and set only biases to constants. Who widens a network
    by copying units has to add a little noise to the copies.

    ## When it is wrong
    Filters that are all set to the same kernel by intent and whose inputs differ (one for each
    channel) are left out; others, such as copies of an expert that a router keeps apart later, may
    be reported as parting slowly.
    In a checkpoint, units that were copied or clustered by intent look the same.

    ## References
    Goodfellow, Bengio, Courville 2016 (Deep Learning), section 8.4; Chen, Goodfellow, Shlens 2016
    (Net2Net: Accelerating learning via knowledge transfer).
    """

    code = "GS302"
    name = "symmetric-init"
    limits = Limits()

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        weights = _hidden_weights(profile)
        return (
            self._symmetric(profile, weights, limits)
            or self._zero(profile, limits)
            or self._duplicates(profile, weights, limits)
        )

    def _symmetric(
        self, profile: Profile, weights: list[ParameterProfile], limits: Limits
    ) -> Finding | None:
        # Rows that are all zero count as symmetric, too, where no gradient reaches them.
        shares = {each.name: min(each.symmetric_rows, each.duplicate_rows) for each in weights}
        faulty = [name for name, share in shares.items() if share > limits.symmetric]
        if not faulty:
            return None
        worst = max(faulty, key=lambda name: shares[name])
        return self.finding(
            Severity.ERROR,
            faulty,
            f"{shares[worst]:.0%} of the rows of {worst} equal another one and get the same "
            f"gradient at all {profile.steps} steps; {len(faulty)} of {len(weights)} hidden "
            "weights are affected.",
            {
                "rows with a twin in weight and gradient, worst weight": Measure(
                    shares[worst], limits.symmetric, profile.source
                )
            },
        )

    def _zero(self, profile: Profile, limits: Limits) -> Finding | None:
        trunk = [site for site in _hidden(profile) if not site.branch]
        faulty = [
            parameter.name
            for site in trunk
            for parameter in _weights_of(profile, {site.module})
            if parameter.weight_norm == 0 and parameter.gradient_norm[:1] == (0.0,)
        ]
        if not faulty or not profile.losses[0]:
            return None
        return self.finding(
            Severity.ERROR,
            dict.fromkeys(faulty),
            f"{len(faulty)} hidden weights, {faulty[0]} first, are all zero and get no gradient: "
            "nothing passes from the inputs to the output.",
            {"rows that are all zero": Measure(1.0, limits.symmetric, profile.source)},
        )

    def _duplicates(
        self, profile: Profile, weights: list[ParameterProfile], limits: Limits
    ) -> Finding | None:
        # The units of a weight with one input each do not share it: their kernels may be alike.
        shares = {each.name: each.duplicate_rows for each in weights if each.shape[1] > 1}
        faulty = [name for name, share in shares.items() if share > limits.duplicates]
        if not faulty:
            return None
        worst = max(faulty, key=lambda name: shares[name])
        return self.finding(
            Severity.WARNING,
            faulty,
            f"{shares[worst]:.0%} of the rows of {worst} equal another one (limit "
            f"{limits.duplicates:.0%}); only their gradients differ. {len(faulty)} of "
            f"{len(weights)} hidden weights are affected.",
            {
                "rows with a twin in weight, worst weight": Measure(
                    shares[worst], limits.duplicates, profile.source
                )
            },
        )

    def check_stored(self, stored: Stored, limits: Limits) -> Finding | None:
        # Kernels of one channel each see different inputs; what is called no weight is drawn
        # otherwise, such as the decays of state-space models.
        weights = [
            each
            for each in stored.hidden
            if each.fan_in > 1 and "weight" in each.name.rpartition(".")[2]
            if len(each.shape) < 3 or each.shape[1] > 1
        ]
        shares = {each.name: each.statistics.duplicate_rows for each in weights}
        faulty = [name for name, share in shares.items() if share > limits.duplicates]
        if not faulty:
            return None
        worst = max(faulty, key=lambda name: shares[name])
        return self.finding(
            Severity.WARNING,
            faulty,
            f"{shares[worst]:.0%} of the rows of {worst} equal another one (limit "
            f"{limits.duplicates:.0%}); {len(faulty)} of {len(weights)} hidden weights are "
            "affected.",
            {
                "rows with a twin in weight, worst weight": Measure(
                    shares[worst], limits.duplicates, Source.WEIGHTS
                )
            },
        )

    def bad(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            nn.init.constant_(layer.weight, 0.05)
            nn.init.zeros_(layer.bias)

        return random_subject(
            "ReLU layers whose weights are all 0.05",
            lambda: perceptron(nn.ReLU, layers=2, initialise=initialise),
        )

    def good(self) -> Subject:
        def initialise(layer: nn.Linear) -> None:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

        return random_subject(
            "ReLU layers with He weights",
            lambda: perceptron(nn.ReLU, layers=2, initialise=initialise),
        )


def _hidden(profile: Profile) -> list[SiteProfile]:
    """The layers whose output is not the model's own."""
    layers = [site for site in profile.sites if site.role is Role.LAYER]
    outputs = {site.module for site in layers if site.is_output}
    return [site for site in layers if site.module not in outputs]


def _weights_of(profile: Profile, modules: set[str]) -> list[ParameterProfile]:
    return [
        parameter
        for parameter in profile.parameters
        if len(parameter.shape) > 1 and parameter.trainable and parameter.module in modules
    ]


def _hidden_weights(profile: Profile) -> list[ParameterProfile]:
    return _weights_of(profile, {site.module for site in _hidden(profile)})
