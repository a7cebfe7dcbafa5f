"""The bias meter, against numpy in float64, and what it leaves behind: nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import PlanError, UsageError
from gradscope.records import Change, Plan, Prescription


def build(gain: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8),
            nn.ReLU(), nn.Linear(8, 3),
        )  # fmt: skip
        with torch.no_grad():
            for each in model.parameters():
                each.mul_(gain)
        return model


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(4)
    return [
        (torch.randn(16, 5, generator=source), torch.randint(3, (16,), generator=source))
        for _ in range(count)
    ]


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def plan(*sites: str, **parameters: Any) -> Plan:
    values = {"derivative": "relu-logistic", "k": 3.5, "selective": False, **parameters}
    entry = Prescription("artificial-derivative", (Change.BACKWARD,), sites, values, "", "")
    return Plan((entry,))


def by_hand(prescribed: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sums of gradients of fresh models, artificial and true, as numpy arrays."""
    both = []
    for chosen in (prescribed, Plan()):
        model = build()
        gradscope.apply(model, chosen)
        torch.manual_seed(0)
        sums = {name: np.zeros(each.shape) for name, each in model.named_parameters()}
        for batch in batches():
            found = torch.autograd.grad(loss(model(batch[0]), batch), list(model.parameters()))
            for name, each in zip(sums, found, strict=True):
                sums[name] += each.double().numpy()
        both.append(sums)
    return both[0], both[1]


def test_cosines_and_ratios_are_numpys() -> None:
    prescribed = plan("2", "5")
    with torch.random.fork_rng(devices=[]):
        artificial, true = by_hand(prescribed)
    found = gradscope.bias(build(), batches(), loss, prescribed)
    assert [each.name for each in found.parameters] == list(true)
    rows = {each.name: (artificial[each.name], true[each.name], each) for each in found.parameters}
    del rows["0.bias"]  # zero but for rounding, before a BatchNorm
    flat = [np.concatenate([each.ravel() for each in side.values()]) for side in (artificial, true)]
    rows["(all)"] = (*flat, found.whole)
    for left, right, row in rows.values():
        norms = np.linalg.norm(left), np.linalg.norm(right)
        assert row.cosine == pytest.approx(np.vdot(left, right) / norms[0] / norms[1], abs=1e-12)
        assert row.ratio == pytest.approx(norms[0] / norms[1], rel=1e-12)
    assert 0 < found.whole.cosine < 0.9999
    # Behind the last activation nothing changes.
    assert found.parameters[-1].cosine == pytest.approx(1, abs=1e-15)
    assert found.batches == 3


def test_nothing_is_left_behind() -> None:
    model = build()
    model[4].weight.grad = kept = torch.ones(8, 8)
    model[6].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    places = [(type(each), sorted(vars(each)), each.training) for each in model.modules()]
    first = gradscope.bias(model, batches(), loss, plan("2", "5"))
    assert model[4].weight.grad is kept
    assert torch.equal(kept, torch.ones(8, 8))
    assert model[0].weight.grad is None
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [(type(each), sorted(vars(each)), each.training) for each in model.modules()] == places
    assert gradscope.bias(model, batches(), loss, plan("2", "5")) == first


def test_a_patch_is_measured_as_it_is_and_stays_so() -> None:
    model = build()
    expected = gradscope.bias(model, batches(), loss, plan("2", "5", strength=0.5))
    with gradscope.apply(model, plan("2", "5")) as patch:
        full = gradscope.bias(model, batches(), loss, patch)
        patch.set(0.5)
        assert gradscope.bias(model, batches(), loss, patch) == expected
        assert patch.strengths == {"2": 0.5, "5": 0.5}
        patch.set(0.0)
        assert gradscope.bias(model, batches(), loss, patch).whole.cosine == pytest.approx(1)
    assert full.whole.cosine < expected.whole.cosine < 1


def test_zero_gradients_are_nan_and_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-50.0)
        model[2].weight.fill_(1.0)
    model.add_module("idle", nn.Identity())
    model.idle.unused = nn.Parameter(torch.ones(2))
    data = [torch.randn(8, 4)]
    found = gradscope.bias(model, data, lambda y, _: (y - 1).square().mean(), plan("1", k=0.1))
    first, *_, unused = found.parameters
    assert math.isnan(first.cosine)
    assert (first.true_zero, first.artificial_zero, first.ratio) == (True, False, math.inf)
    assert math.isnan(unused.cosine)
    lines = str(found).splitlines()
    assert lines[0].split() == ["parameter", "cosine", "ratio"]
    assert lines[1].startswith("(all)")
    assert lines[2].endswith("the true gradient is zero")
    assert lines[-1].endswith("both gradients are zero")


def test_gradients_too_small_to_square_have_a_cosine() -> None:
    model = build().double()
    data = [(x.double(), y) for x, y in batches(1)]
    full = gradscope.bias(model, data, loss, plan("2", "5"))
    small = gradscope.bias(model, data, lambda y, b: loss(y, b) * 1e-200, plan("2", "5"))
    assert small.whole.cosine == pytest.approx(full.whole.cosine, rel=1e-9)


def test_what_cannot_be_meant_is_refused() -> None:
    model = build()
    with pytest.raises(UsageError, match="at least one batch"):
        gradscope.bias(model, [], loss, plan("2"))
    with pytest.raises(UsageError, match="one of the two"):
        gradscope.bias(model, batches(), None, plan("2"))
    with pytest.raises(UsageError, match="another model"):
        gradscope.bias(model, batches(), loss, gradscope.apply(build(), plan("2")))
    norm = Prescription(
        "norm-insertion", (Change.STRUCTURE,), ("2",), {"layers": "LayerNorm(8)"}, "", ""
    )
    with pytest.raises(PlanError, match="changes structure"):
        gradscope.bias(model, batches(), loss, Plan((norm,)))


def test_a_step_takes_the_place_of_a_loss() -> None:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss(model(batch[0]), batch)

    one = gradscope.bias(build(), batches(), None, plan("2"), step=step)
    assert one == gradscope.bias(build(), batches(), loss, plan("2"))


HE = Prescription("re-initialise", (Change.PARAMETERS,), ("0",), {"scheme": "he"}, "", "")


def test_a_patch_is_measured_whatever_else_it_changes() -> None:
    """Both gradients are those of the patched model."""
    model, derivative = build(), plan("2", "5")
    with gradscope.apply(model, Plan((HE, *derivative.prescriptions))) as both:
        found = gradscope.bias(model, batches(), loss, both)
    with gradscope.apply(model, Plan((HE,))):
        alone = gradscope.bias(model, batches(), loss, derivative)
    assert found == alone != gradscope.bias(model, batches(), loss, derivative)


def test_a_patch_without_a_derivative_is_refused() -> None:
    model = build()
    with (
        gradscope.apply(model, Plan((HE,))) as patch,
        pytest.raises(PlanError, match="no artificial derivative"),
    ):
        gradscope.bias(model, batches(), loss, patch)
