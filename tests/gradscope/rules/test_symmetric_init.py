"""GS302: hidden copies that stay copies fire; last layers, branches and chance do not."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from gradscope.pipeline import scan
from gradscope.records import Finding, Severity, Skipped
from gradscope.rules.subjects import perceptron, random_subject
from gradscope.rules.symmetric_init import SymmetricInit
from tests.gradscope.rules.making import layer, parameter, profile

RULE = SymmetricInit()


def check(name: str = "0.weight", **changed: Any) -> Finding | Skipped | None:
    made = profile(parameters=(parameter(name, **changed), parameter("3.weight")))
    return RULE.check(made, RULE.limits)


def test_two_rows_that_nothing_tells_apart_are_an_error() -> None:
    finding = check(duplicate_rows=2 / 32, symmetric_rows=2 / 32)
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites) == (Severity.ERROR, ("0.weight",))


def test_rows_that_part_are_a_warning_where_they_are_most() -> None:
    finding = check(duplicate_rows=1.0)
    assert isinstance(finding, Finding)
    assert finding.severity is Severity.WARNING
    assert check(duplicate_rows=0.4) is None
    assert check(duplicate_rows=1.0, shape=(32, 1, 3, 3)) is None, "one kernel for each channel"


@pytest.mark.parametrize(
    "healthy",
    [
        {},
        {"name": "2.weight", "duplicate_rows": 1.0, "symmetric_rows": 1.0},
        {"name": "table.weight", "duplicate_rows": 1.0, "symmetric_rows": 1.0},
        {"trainable": False, "duplicate_rows": 1.0, "symmetric_rows": 1.0},
        {"duplicate_rows": 0.0, "symmetric_rows": 0.1},
        {"shape": (32,), "duplicate_rows": 1.0, "symmetric_rows": 1.0},
    ],
    ids=["random", "output", "embedding", "frozen", "pruned rows", "bias"],
)
def test_what_is_normal_is_silent(healthy: dict[str, Any]) -> None:
    assert check(**healthy) is None


ZERO: dict[str, Any] = {"weight_norm": 0.0, "gradient_norm": (0.0,) * 8, "symmetric_rows": 1.0}


def test_a_hidden_layer_of_zeros_without_a_gradient_is_an_error() -> None:
    finding = check(**ZERO)
    assert isinstance(finding, Finding)
    assert (finding.severity, finding.sites) == (Severity.ERROR, ("0.weight",))


@pytest.mark.parametrize(
    "changed",
    [{"gradient_norm": (0.3,) * 8}, {"gradient_norm": ()}, {"gradient_norm": (None,) * 8}],
)
def test_a_hidden_layer_of_zeros_that_wakes_is_silent(changed: dict[str, Any]) -> None:
    assert check(**(ZERO | changed)) is None


def test_a_branch_of_zeros_is_silent() -> None:
    sites = (layer("0", 0, branch=True), layer("2", 1, is_output=True))
    made = profile(*sites, parameters=(parameter("0.weight", **ZERO),))
    assert RULE.check(made, RULE.limits) is None


def test_all_zero_networks_and_zero_last_layers_as_they_are_profiled() -> None:
    def zeros(layer: nn.Linear) -> None:
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, 0.1)

    def last_of_zeros() -> nn.Module:
        model = perceptron(nn.ReLU, layers=2)
        nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
        return model

    dead = random_subject("zeros", lambda: perceptron(nn.ReLU, layers=2, initialise=zeros))
    assert [each.code for each in scan(dead, select=["GS302"]).findings] == ["GS302"]
    last = random_subject("a last layer of zeros", last_of_zeros)
    assert not scan(last, select=["GS302"]).findings
