"""Every artificial derivative, put into the modules of a model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.derivatives import derivatives
from gradscope.patching import reach
from tests.gradscope.derivatives.calling import ONE_OF_EACH, made
from tests.gradscope.derivatives.cases import Case

WITH_MODULES = pytest.mark.parametrize(
    "case", [case for case in ONE_OF_EACH if derivatives()[case.name].native], ids=str
)


def plain(case: Case) -> nn.Sequential:
    native = derivatives()[case.name].native
    assert native
    torch.manual_seed(0)
    one, other = (native(**case.arguments) for _ in range(2))
    return nn.Sequential(nn.Linear(4, 6), one, nn.Linear(6, 6), other)


def patched(case: Case, **parameters: Any) -> nn.Sequential:
    model = plain(case)
    reach(model, [("*", made(case, **parameters))])
    return model


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


@WITH_MODULES
def test_a_model_pickles_copies_and_keeps_its_keys(case: Case) -> None:
    model, x = patched(case), torch.randn(5, 4)
    expected, output = gradients(model, x), model(x)
    assert torch.equal(output, plain(case)(x))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert repr(made(case)) in repr(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == list(model.state_dict())
        assert [type(module) for module in other] == [type(module) for module in model]
        assert torch.equal(other(x), output)
        assert all(map(torch.equal, gradients(other, x), expected))


@WITH_MODULES
@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiling_leaves_no_graph_break(case: Case, selective: bool) -> None:
    if selective and "selective" not in vars(made(case)):
        return
    model = plain(case)
    if hasattr(model[1], "inplace"):
        model[1].inplace = True
    reached = reach(model, [("*", made(case, **{"selective": True} if selective else {}))])
    x = torch.randn(5, 4)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for strength in (1.0, 0.5):
        reached.settings[1].set(strength)
        for one, other in zip(gradients(compiled, x), gradients(model, x), strict=True):
            torch.testing.assert_close(one, other)


@WITH_MODULES
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_program_holds_the_plain_operator(case: Case, strict: bool) -> None:
    x = torch.randn(5, 4)
    found, expected = (
        [str(node.target) for node in torch.export.export(each, (x,), strict=strict).graph.nodes]
        for each in (patched(case), plain(case))
    )
    assert found == expected
