"""Reaching sites: exactly what is named changes, by hand-written references, and comes off."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradscope.derivatives import Derivative, derivative
from gradscope.patching import reach
from gradscope.profile import profile_steps

RELU = derivative("relu-logistic", {"k": 3.5, "selective": False})
LEAKY = derivative("leaky-relu-logistic", {})
SIGMOID = derivative("sigmoid-min", {})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.linear(x))
        return functional.relu(self.linear(x * 0.5 - 0.1))


class Net(nn.Module):
    """Calls of several spellings, a block used twice, an activation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.act = nn.ReLU()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.one(self.block(x) - 0.2))
        x = torch.relu(self.two(x))
        x = self.block(x).mul(1.5).sub(0.1).relu_()
        x = functional.leaky_relu(self.one(x), 0.2)
        return self.act(self.two(x)) + self.two(x).clamp(min=0)


def chosen(x: Tensor, site: str, patched: tuple[str, ...]) -> Tensor:
    return RELU(x) if site in patched else torch.relu(x)


def by_hand(model: Net, x: Tensor, *patched: str) -> Tensor:
    """The same forward, written out, with the derivative where it is named."""

    def block(x: Tensor, use: int) -> Tensor:
        x = chosen(model.block.linear(x), f"block.act@{use}", patched)
        return chosen(model.block.linear(x * 0.5 - 0.1), f"block::relu@{use}", patched)

    x = chosen(model.one(block(x, 0) - 0.2), "act@0", patched)
    x = chosen(model.two(x), "::relu@0", patched)
    x = chosen(block(x, 1).mul(1.5).sub(0.1), "::relu@1", patched)
    x = (
        LEAKY(model.one(x), negative_slope=0.2)
        if "leaky" in patched
        else functional.leaky_relu(model.one(x), 0.2)
    )
    return chosen(model.two(x), "act@1", patched) + chosen(model.two(x), "::relu@2", patched)


def net(kind: Callable[[], nn.Module] = Net) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return kind()


def inputs() -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(model.parameters())))


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


EVERY = ("act@0", "act@1", "block.act@0", "block.act@1", "block::relu@0", "block::relu@1")
EVERY += ("::relu@0", "::relu@1", "::relu@2")


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        *[((site,), (site,)) for site in EVERY],
        (("act",), ("act@0", "act@1")),
        (("block.act", "::relu"), ("block.act@0", "block.act@1", *EVERY[-3:])),
        (("block::relu@*",), ("block::relu@0", "block::relu@1")),
        (("*.act",), ("block.act@0", "block.act@1")),
        (("*", "*::relu"), EVERY),
        (("*::r*",), EVERY[4:]),
        (("act@1", "block::relu@1", "::relu@2"), ("act@1", "block::relu@1", "::relu@2")),
    ],
    ids=str,
)
def test_exactly_what_is_named_is_differentiated(
    named: tuple[str, ...], meant: tuple[str, ...]
) -> None:
    model = net()
    plain = model(inputs())
    before = gradients(model, plain)
    reached = reach(model, [(site, RELU) for site in named])
    y = model(inputs())
    assert torch.equal(y, plain)
    found = gradients(model, y)
    assert equal(found, gradients(model, by_hand(model, inputs(), *meant)))
    assert not equal(found, before)
    assert sum(setting.calls for setting in reached.settings) == len(meant)
    reached()
    assert equal(gradients(model, model(inputs())), before)


def test_arguments_of_the_call_go_to_the_derivative() -> None:
    model = net()
    reach(model, [("::leaky_relu@0", LEAKY)])
    expected = gradients(model, by_hand(model, inputs(), "leaky"))
    assert equal(gradients(model, model(inputs())), expected)


@pytest.mark.parametrize("name", ["clamp", "clip", "clamp_min"])
@pytest.mark.parametrize("home", [torch, Tensor])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_clamp_at_zero_from_below_is_a_relu(name: str, home: Any, inplace: bool) -> None:
    function = getattr(home, name + "_" * inplace)

    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            whole = function(x * 1, min=0) + function(x * 1, 0.0)
            part = function(x * 1, 0.5) if name == "clamp_min" else function(x * 1, 0, 0.5)
            return whole + part

    model = Clamped()
    x = inputs().requires_grad_()
    plain = model(x)
    (rest,) = torch.autograd.grad(model(x).sum() - 2 * torch.relu(x).sum(), x)
    for site, uses in (("::relu@1", 1), ("*::relu", 2)):
        reached = reach(model, [(site, RELU)])
        y = model(x)
        assert torch.equal(y, plain)
        (found,) = torch.autograd.grad(y.sum(), x)
        assert sum(setting.calls for setting in reached.settings) == uses
        reached()
        slope = torch.relu(x.sign()) * (2 - uses) + torch.sigmoid(3.5 * x) * uses
        torch.testing.assert_close(found, (rest + slope).detach())


def test_names_are_those_of_the_profile() -> None:
    model = net()
    found = profile_steps(model, [inputs()], lambda m, x: m(x).square().mean(), steps=1)
    names = {site.name for site in found.activations if site.operator in ("relu", "ReLU")}
    assert names == {
        site.removesuffix("@0") if ".act" in site or site == "act@0" else site for site in EVERY
    }


def test_a_patched_model_is_profiled_as_the_plain_one() -> None:
    """The same sites with the same outputs, and the backward signals that it has now."""
    model = net()
    step: Callable[[nn.Module, Tensor], Tensor] = lambda m, x: m(x).square().mean()  # noqa: E731
    plain = profile_steps(model, [inputs()], step, steps=1)
    reach(model, [("*", RELU), ("*::relu", RELU)])
    patched = profile_steps(model, [inputs()], step, steps=1)
    assert [site.name for site in patched.sites] == [site.name for site in plain.sites]
    for one, other in zip(plain.sites, patched.sites, strict=True):
        assert (one.forward_rms, one.dead, one.operator) == (
            other.forward_rms,
            other.dead,
            other.operator,
        )
        assert all(value > 0 for value in other.backward_rms)
    assert plain.sites[0].backward_rms != patched.sites[0].backward_rms


# --- Taking off -------------------------------------------------------------------------------


def everything(model: nn.Module) -> list[object]:
    return [
        (name, type(module), id(module), dict(vars(module)), list(module._forward_hooks))
        for name, module in model.named_modules()
    ]


def test_patches_come_off_in_any_order() -> None:
    model = net()
    before, plain = everything(model), gradients(model, model(inputs()))
    first = reach(model, [("::relu@0", RELU), ("act", RELU)])
    alone = gradients(model, model(inputs()))
    second = reach(model, [("::relu@1", RELU), ("block.act@1", RELU)])
    first()
    meant = ("::relu@1", "block.act@1")
    expected = gradients(model, by_hand(model, inputs(), *meant))
    assert equal(gradients(model, model(inputs())), expected)
    third = reach(model, [("::relu@0", RELU), ("act", RELU)])
    second()
    assert equal(gradients(model, model(inputs())), alone)
    third()
    third()
    assert everything(model) == before
    assert equal(gradients(model, model(inputs())), plain)


def test_the_last_one_at_a_site_counts() -> None:
    model = net()
    steep = derivative("relu-logistic", {"k": 9.0, "selective": False})
    with_steep = reach(model, [("::relu@0", steep)])
    expected = gradients(model, model(inputs()))
    with_steep()
    reach(model, [("::relu@0", RELU)])
    later = reach(model, [("::relu@0", steep)])
    assert equal(gradients(model, model(inputs())), expected)
    later()
    expected = gradients(model, by_hand(model, inputs(), "::relu@0"))
    assert equal(gradients(model, model(inputs())), expected)


class Fails(RuntimeError):
    pass


def test_a_forward_that_raises_leaves_no_mode_and_no_count() -> None:
    model = net()
    reached = reach(model, [("::relu@1", RELU), ("block::relu@1", RELU)])
    expected = gradients(model, model(inputs()))

    def fail(*_: Any) -> None:
        raise Fails

    handle = model.block.register_forward_hook(fail)
    with pytest.raises(Fails):
        model(inputs())
    handle.remove()
    assert not torch.overrides._get_current_function_mode_stack()
    assert equal(gradients(model, model(inputs())), expected)
    reached()


# --- Copies, threads, other modes -------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_patched_on_their_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    plain = gradients(model, model(inputs()))
    reached = reach(model, [("::relu@1", RELU), ("block.act@1", RELU), ("act", RELU)])
    found = gradients(model, model(inputs()))
    twin = copied(model)
    reached()
    assert equal(gradients(model, model(inputs())), plain)
    assert equal(gradients(twin, twin(inputs())), found)
    assert list(twin.state_dict()) == list(model.state_dict())


def test_threads_count_for_themselves() -> None:
    model = net()
    reach(model, [("::relu@1", RELU), ("block.act@1", RELU)])
    expected = gradients(model, model(inputs()))
    wrong: list[int] = []

    def train(number: int) -> None:
        for _ in range(20):
            if not equal(gradients(model, model(inputs())), expected):
                wrong.append(number)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Passing(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class WithMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        with Passing():
            return torch.relu(self.block(x) - 0.1)


def test_a_mode_of_the_users_in_between_changes_no_names() -> None:
    model = net(WithMode)
    with Passing():
        reached = reach(model, [("::relu", RELU)])
        model(inputs())
    assert [setting.calls for setting in reached.settings] == [1]


def test_a_forward_that_is_an_attribute_is_kept() -> None:
    model = net()
    plain = model.block.forward
    model.block.forward = lambda x: plain(x) + 0.0
    before = everything(model)
    reached = reach(model, [("block::relu@0", RELU)])
    expected = gradients(model, by_hand(model, inputs(), "block::relu@0"))
    assert equal(gradients(model, model(inputs())), expected)
    reached()
    assert everything(model) == before


def test_derivatives_of_calls_may_differ() -> None:
    model = net()
    pairs: list[tuple[str, Derivative]] = [("::relu@0", RELU), ("::leaky_relu", LEAKY)]
    reach(model, pairs)
    expected = gradients(model, by_hand(model, inputs(), "::relu@0", "leaky"))
    assert equal(gradients(model, model(inputs())), expected)
