"""Patched models under torch.compile: no graph breaks, few traces, the gradients of eager mode."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import gradscope
from gradscope.derivatives import derivative
from gradscope.patching import reach
from tests.gradscope.patching.test_reach import Net, equal, gradients, inputs, net

# torch.compile itself makes an instance of autograd.Function, which torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SITES = ("::relu@0", "::relu@2", "block::relu@1", "block.act@1", "act")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def close(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_graph_is_whole_and_right(backend: str) -> None:
    model = net()
    plain = model(inputs())
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    before = gradients(model, compiled(inputs()))
    for k in (3.5, 1.0, 7.0):  # a number that changes must not become a variable of the graph
        reached = reach(
            model,
            [(site, derivative("relu-logistic", {"k": k, "selective": False})) for site in SITES],
        )
        y = compiled(inputs())
        assert torch.equal(y, plain)
        found = gradients(model, y)
        assert close(found, gradients(model, model(inputs())))
        assert not close(found, before)
        reached()
        assert close(gradients(model, compiled(inputs())), before)


def test_annealing_traces_three_times_at_most() -> None:
    model = net()
    reached = reach(
        model,
        [(site, derivative("relu-logistic", {"k": 3.5, "selective": False})) for site in SITES],
    )
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    start = graphs()
    for strength in (1.0, 0.9, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0, 0.5, 1.0):
        for setting in reached.settings:
            setting.set(strength)
        found = gradients(model, compiled(inputs()))
        assert close(found, gradients(model, model(inputs())))
    assert graphs() - start == 3


def test_a_model_that_is_compiled_already_is_patched_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = net(Net)
    compiled = torch.compile(model, backend="eager")
    before = gradients(model, compiled(inputs()))
    with caplog.at_level(logging.WARNING, logger="gradscope"):
        with gradscope.replace_derivative(
            compiled, "relu-logistic", SITES, k=3.5, selective=False
        ) as patch:
            assert "traces it anew" in caplog.text
            found = gradients(model, compiled(inputs()))
            assert close(found, gradients(model, model(inputs())))
            assert not equal(found, before)
            caplog.clear()
            patch.set(0.5)
            assert "traces it anew" in caplog.text
            caplog.clear()
            patch.set(0.25)
            assert not caplog.text
        assert "unpatched" in caplog.text
    assert close(gradients(model, compiled(inputs())), before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_block_that_is_compiled_inside_is_patched(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    model.block.compile(backend="aot_eager")
    before = gradients(model, model(inputs()))
    with gradscope.replace_derivative(
        model, "relu-logistic", ("block::relu", "::relu"), k=3.5, selective=False
    ):
        assert "traces it anew" in caplog.text
        found = gradients(model, model(inputs()))
    assert not close(found, before)
    assert close(gradients(model, model(inputs())), before)
    plain = net()
    reach(
        plain,
        [
            (site, derivative("relu-logistic", {"k": 3.5, "selective": False}))
            for site in ("block::relu", "::relu")
        ],
    )
    assert close(found, gradients(plain, plain(inputs())))
