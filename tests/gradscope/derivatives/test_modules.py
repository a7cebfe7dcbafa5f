"""Artificial derivatives worn by the modules of a model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.derivatives import derivatives
from tests.gradscope.derivatives.calling import ONE_OF_EACH, made
from tests.gradscope.derivatives.cases import Case

WITH_MODULES = pytest.mark.parametrize(
    "case", [case for case in ONE_OF_EACH if derivatives()[case.name].module], ids=str
)


def wearing(case: Case, **parameters: Any) -> nn.Sequential:
    """Two activations that are artificial, as a remedy makes them."""
    chosen = made(case, **parameters)
    assert chosen.native
    assert chosen.module
    torch.manual_seed(0)
    modules = [chosen.native(**case.arguments) for _ in range(2)]
    for module in modules:
        module.__class__ = chosen.module
        module.derivative = chosen  # type: ignore[assignment]
    return nn.Sequential(nn.Linear(4, 6), modules[0], nn.Linear(6, 6), modules[1])


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().sum(), list(model.parameters())))


@WITH_MODULES
def test_a_model_pickles_copies_and_keeps_its_keys(case: Case) -> None:
    model, x = wearing(case), torch.randn(5, 4)
    expected, output = gradients(model, x), model(x)
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
    model = wearing(case, **{"selective": True} if selective else {})
    if hasattr(model[1], "inplace"):
        model[1].inplace = True
    x = torch.randn(5, 4)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for strength in (1.0, 0.5):
        model[3].strength = strength
        for one, other in zip(gradients(compiled, x), gradients(model, x), strict=True):
            torch.testing.assert_close(one, other)


@WITH_MODULES
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_program_holds_the_plain_operator(case: Case, strict: bool) -> None:
    model, x = wearing(case), torch.randn(5, 4)
    kind = derivatives()[case.name]
    assert kind.native
    plain = nn.Sequential(
        model[0], kind.native(**case.arguments), model[2], kind.native(**case.arguments)
    )
    found, expected = (
        [str(node.target) for node in torch.export.export(each, (x,), strict=strict).graph.nodes]
        for each in (model, plain)
    )
    assert found == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_strength_that_is_a_tensor_is_annealed_without_compiling_again() -> None:
    case = next(case for case in ONE_OF_EACH if case.name == "relu-logistic")
    model, x = wearing(case), torch.randn(5, 4)
    model[1].strength = model[3].strength = strength = torch.tensor(1.0)
    torch.compiler.reset()
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=counted, fullgraph=True)
    for share in torch.linspace(1, 0, 12).tolist():
        strength.fill_(share)
        for one, other in zip(gradients(compiled, x), gradients(model, x), strict=True):
            torch.testing.assert_close(one, other)
    assert len(graphs) == 1
