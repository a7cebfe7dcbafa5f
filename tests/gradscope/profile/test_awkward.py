"""Circumstances in which measuring could go wrong, or wrong the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.errors import UsageError
from gradscope.profile import sums
from gradscope.records import Profile, Role


def mean_square(output: Tensor, _: Any) -> Tensor:
    return output.square().mean()


def built(forward: Callable[..., Any], **members: nn.Module | nn.Parameter) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, member in members.items():
                setattr(self, name, member)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return Model()


def profiled(
    model: nn.Module, *, steps: int = 2, loss: Any = mean_square, **options: Any
) -> Profile:
    torch.manual_seed(0)
    return gradscope.profile(
        model, [torch.randn(8, 4) for _ in range(steps)], loss, steps=steps, **options
    )


def linear(fan_in: int = 4, fan_out: int = 4) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(fan_in, fan_out)


# --- Names, types, calls ----------------------------------------------------------------------


def test_a_layer_called_input_is_a_layer() -> None:
    found = profiled(built(lambda self, x: self.input(x).relu(), input=linear()))
    assert [site.name for site in found.sites] == ["input", "::relu@0"]
    assert found.site("input").backward_rms[0] > 0
    assert len(found.input_variation) == 2


def test_inference_tensors_inside_a_forward_are_seen() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            gate = torch.relu(self.gate(x))
        return self.head(x * gate.clone())  # type: ignore[no-any-return]

    found = profiled(built(forward, gate=linear(), head=linear()))
    assert [site.name for site in found.sites] == ["gate", "::relu@0", "head"]


def test_attention_called_by_name_is_a_site() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.layer(x)[:, None, None]
        return functional.scaled_dot_product_attention(query=h, key=h, value=h).flatten(1)

    found = profiled(built(forward, layer=linear()), attention=True)
    site = found.site("::scaled_dot_product_attention@0")
    assert site.role is Role.ATTENTION
    assert site.entropy == (0.0, 0.0)


@pytest.mark.parametrize("mask", [float("-inf"), -1e9, -1e4, torch.finfo(torch.float32).min])
def test_scores_that_are_masked_out_are_not_the_largest(mask: float) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.layer(x).reshape(-1, 2, 2)
        scores = h @ h.mT + torch.tensor([[0.0, mask], [0.0, 0.0]])
        return (scores.softmax(-1) @ h).flatten(1)  # type: ignore[no-any-return]

    found = profiled(built(forward, layer=linear()))
    assert all(0 < peak < 100 for peak in found.site("::softmax@0").logit_peak)


def test_a_product_with_what_is_made_of_a_parameter_is_a_layer() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    found = profiled(built(lambda self, x: (x @ self.weight.T).relu(), weight=weight))
    assert [(site.name, site.role) for site in found.sites] == [
        ("::matmul@0", Role.LAYER),
        ("::relu@0", Role.ACTIVATION),
    ]
    assert found.site("::relu@0").units == 3


def test_a_gate_of_two_halves_of_the_samples_is_no_fault_of_the_model() -> None:
    model = built(lambda self, x: functional.glu(self.layer(x), dim=0), layer=linear())
    assert [site.name for site in profiled(model).sites] == ["layer", "::glu@0"]


@pytest.mark.parametrize("inplace", [False, True])
def test_the_output_of_a_layer_may_be_written_to(inplace: bool) -> None:
    """For inputs of three axes it is a view of what the layer has computed."""

    def forward(self: Any, x: Tensor) -> Tensor:
        h = self.first(x)
        r = self.second(h)
        if inplace:
            r += h
        else:
            r = r + h
        return self.head(functional.relu(r, inplace=inplace))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = built(forward, first=linear(), second=linear(), head=linear())
    found = gradscope.profile(model, [torch.randn(8, 5, 4)], mean_square, steps=1)
    assert [(site.name, site.depth, site.branch, site.joins) for site in found.sites] == [
        ("first", 0, False, None),
        ("second", 1, True, "::relu@0"),
        ("::relu@0", 2, False, None),
        ("head", 3, False, None),
    ]
    assert all(site.backward_rms[0] > 0 for site in found.sites)


# --- What fails in measuring never reaches the model -----------------------------------------


def test_what_cannot_be_measured_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(sums, "forward_sums", fails)
    found = profiled(built(lambda self, x: self.layer(x).relu(), layer=linear()))
    assert found.losses[0] > 0
    assert found.parameters[0].gradient_norm[0] is not None
    reasons = {entry.what: entry.reason for entry in found.skipped}
    assert any("no kernel for this" in reason for reason in reasons.values())


def test_a_hook_of_the_users_that_raises_inside_the_model_is_the_models_affair() -> None:
    def raises(*_: Any) -> None:
        raise ValueError("refused")

    def forward(self: Any, x: Tensor) -> Tensor:
        try:
            return self.head(self.inner(x))  # type: ignore[no-any-return]
        except ValueError:
            return self.head(x).relu()  # type: ignore[no-any-return]

    inner = linear()
    inner.register_forward_pre_hook(raises)
    found = profiled(built(forward, inner=inner, head=linear()))
    assert [site.name for site in found.sites] == ["head", "::relu@0"]


# --- Nothing is left --------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.SGD(p, lr=0.1)])
def test_a_loss_with_weights_of_its_own_keeps_its_gradients(optimizer: Any) -> None:
    critic = linear()
    before = torch.ones(4, 4)
    critic.weight.grad = before
    model = built(lambda self, x: self.layer(x).tanh(), layer=linear())
    profiled(model, loss=lambda output, _: critic(output).square().mean(), optimizer=optimizer)
    assert critic.weight.grad is before
    assert torch.equal(before, torch.ones(4, 4))
    assert critic.bias.grad is None


def test_a_loss_may_be_a_parameter_itself() -> None:
    model = built(lambda self, x: self.scale, scale=nn.Parameter(torch.tensor(2.0)))
    found = profiled(model, loss=lambda output, _: output)
    assert found.parameters[0].gradient_norm == (1.0, 1.0)
    assert model.scale.grad is None


def test_inputs_that_require_gradients_keep_theirs() -> None:
    x = torch.randn(8, 4, requires_grad=True)
    gradscope.profile(built(lambda self, x: self.layer(x), layer=linear()), [x], mean_square)
    assert x.grad is None


def test_what_a_forward_keeps_is_taken_out_again() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.history.append(y)
        self.seen["last"] = y
        self.count += 1
        self.new = y
        return y

    model = built(forward, layer=linear())
    history: list[Any] = ["kept"]
    model.history, model.seen, model.count = history, {"first": 1}, 3  # type: ignore[assignment]
    profiled(model)
    assert model.history is history
    assert (model.history, model.seen, model.count) == (["kept"], {"first": 1}, 3)
    assert not hasattr(model, "new")


def test_hooks_and_modules_that_a_forward_adds_are_taken_out_again() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if not hasattr(self, "installed"):
            self.installed = True
            self.layer.register_forward_hook(lambda *_: None)
            self.added = linear()
            self.register_buffer("seen", torch.zeros(()))
        return self.added(self.layer(x)) + self.seen  # type: ignore[no-any-return]

    model = built(forward, layer=linear())
    hooks = model.layer._forward_hooks
    profiled(model)
    assert model.layer._forward_hooks is hooks
    assert not hooks
    assert [name for name, _ in model.named_children()] == ["layer"]
    # And it can be profiled again, and used.
    profiled(model)
    assert model(torch.zeros(2, 4)).shape == (2, 4)


def test_weights_and_tensors_that_a_forward_writes_to_are_put_back() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.slow.weight.mul_(0.9).add_(self.fast.weight, alpha=0.1)
            self.mean.mul_(0.5).add_(x.mean(dim=0))
        return self.fast(x) - self.slow(x).detach()  # type: ignore[no-any-return]

    slow = linear()
    slow.requires_grad_(False)
    model = built(forward, fast=linear(), slow=slow)
    model.mean = torch.ones(4)
    before = slow.weight.clone()
    profiled(model)
    assert torch.equal(slow.weight, before)
    assert torch.equal(model.mean, torch.ones(4))


def test_a_graph_that_waits_for_its_backward_pass_can_still_have_it() -> None:
    model = built(lambda self, x: self.norm(self.layer(x)), layer=linear(), norm=nn.BatchNorm1d(4))
    waiting = model(torch.randn(8, 4)).square().mean()
    profiled(model)
    waiting.backward()
    assert model.layer.weight.grad is not None


# --- Optimizers and copies --------------------------------------------------------------------


def test_an_optimizer_built_around_the_model_is_measured_too() -> None:
    model = built(lambda self, x: self.layer(x).tanh(), layer=linear())
    before = model.layer.weight.clone()
    found = profiled(model, optimizer=lambda _: torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert all(ratio > 0 for entry in found.parameters for ratio in entry.update_ratio)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_model_with_a_scripted_part_is_updated_too() -> None:
    scripted = torch.jit.script(nn.Sequential(linear(), nn.Tanh()))
    model = built(lambda self, x: self.head(self.inner(x)), inner=scripted, head=linear())
    before = [parameter.clone() for parameter in model.parameters()]
    found = profiled(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert all(ratio > 0 for entry in found.parameters for ratio in entry.update_ratio)
    assert all(map(torch.equal, before, model.parameters()))


# --- The scale of the loss --------------------------------------------------------------------


def same(one: Profile, other: Profile) -> None:
    for a, b in zip(one.sites, other.sites, strict=True):
        assert a.backward_rms == pytest.approx(b.backward_rms), a.name
    for c, d in zip(one.parameters, other.parameters, strict=True):
        assert c.gradient_norm == pytest.approx(d.gradient_norm), c.name
        assert c.update_ratio == pytest.approx(d.update_ratio), c.name
    assert one.losses == other.losses
    assert one.gradient_noise is not None
    assert other.gradient_noise is not None
    assert one.gradient_noise.covariance == pytest.approx(other.gradient_noise.covariance)


@pytest.mark.parametrize("optimizer", [None, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_a_scaled_loss_gives_the_same_profile(optimizer: Any) -> None:
    model = built(lambda self, x: self.b(self.a(x).tanh()), a=linear(), b=linear()).double()
    batches = [torch.randn(8, 4, dtype=torch.float64) for _ in range(3)]
    plain, scaled = (
        gradscope.profile(
            copy.deepcopy(model), batches, mean_square, optimizer=optimizer, loss_scale=scale
        )
        for scale in (1.0, 2.0**16)
    )
    same(scaled, plain)


def test_a_step_that_overflows_is_not_taken() -> None:
    model = built(lambda self, x: self.layer(x.half()), layer=linear().half())
    found = profiled(model, loss_scale=1e9, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert all(ratio == 0 for entry in found.parameters for ratio in entry.update_ratio)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_has_to_be_a_positive_number(scale: float) -> None:
    with pytest.raises(UsageError, match="loss_scale"):
        profiled(linear(), loss_scale=scale)


# --- Recomputed segments ----------------------------------------------------------------------


def test_a_module_that_reentrant_checkpointing_runs_in_another_order_says_so() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = checkpoint(self.block, x, use_reentrant=True)
        return x

    found = profiled(built(forward, first=linear(), block=nn.Sequential(linear(), nn.Tanh())))
    assert str(found.site("block.0").backward_rms) == "(nan, nan)"
    assert any("reentrant" in entry.reason for entry in found.skipped)
