"""A plan that was edited by hand is refused with its file and the line that is wrong."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import gradscope
from gradscope.errors import PlanError
from gradscope.records import Plan
from gradscope.reports import render_plan
from gradscope.rules.subjects import perceptron
from tests.gradscope.remedies.setting import entry

PLAN = Plan(
    (
        entry("artificial-derivative", "1", "3", derivative="relu-logistic", k=3.5),
        entry("re-initialise", "0", "2", scheme="he"),
    )
)


def network() -> nn.Module:
    return perceptron(nn.ReLU, layers=2, width=16, features=8, classes=3)


@pytest.mark.parametrize(
    ("edit", "wrong"),
    [
        (lambda each: each[0]["parameters"].update(k=-1.0), '"k": -1.0'),
        (lambda each: each[0]["parameters"].update(steep=2), '"steep": 2'),
        (lambda each: each[1]["parameters"].update(scheme="hee"), '"scheme": "hee"'),
        (lambda each: each[1].update(sites=["0", "9"]), '"9"'),
        (lambda each: each[1].update(remedy="re-initialize"), '"remedy": "re-initialize"'),
        (lambda each: each[1].update(changes=["backward"]), '"remedy": "re-initialise"'),
    ],
)
def test_the_line_that_is_wrong_is_named(
    edit: Callable[[Any], None], wrong: str, tmp_path: Path
) -> None:
    raw = json.loads(render_plan(PLAN))
    edit(raw["plan"]["prescriptions"])
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(raw, indent=2))
    plan = gradscope.load_plan(file)
    model = network()
    before = [type(module) for module in model.modules()]
    with pytest.raises(PlanError) as refused:
        gradscope.apply(model, plan)
    lines = file.read_text().splitlines()
    number = next(index for index, line in enumerate(lines, 1) if line.strip().strip(",") == wrong)
    assert str(refused.value).startswith(f"{file}, line {number}: Prescription ")
    assert [type(module) for module in model.modules()] == before


def test_where_a_plan_comes_from_is_no_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(render_plan(PLAN))
    plan = gradscope.load_plan(file)
    assert plan == PLAN
    assert render_plan(plan) == render_plan(PLAN)
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == PLAN
