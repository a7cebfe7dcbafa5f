"""Nothing is changed about a model that is examined or repaired: not by a run that ends well, and
not by one that is cut short anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import ModelError
from gradscope.profile.preserve import preserved
from gradscope.subject import Subject

Act = Callable[[nn.Module, list[Any], Callable[..., Tensor], bool], object]
Loss = Callable[[Any, Any], Tensor]


def bits(tensor: Tensor | None) -> bytes | None:
    return (
        None if tensor is None else tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


def everything(model: nn.Module) -> dict[str, Any]:
    """All that must not change, with each object's identity where that counts."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    seen: dict[str, Any] = {
        "random": (python, bits(torch.get_rng_state()), str(numpy)),
        "gradients on": torch.is_grad_enabled(),
        "function modes": torch.overrides._get_current_function_mode_stack(),
        "state_dict": list(model.state_dict()),
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        seen[f"parameter {name}"] = (id(parameter), bits(parameter), parameter.requires_grad)
        seen[f"gradient {name}"] = (id(parameter.grad), bits(parameter.grad))
        seen[f"tensor hooks {name}"] = list(parameter._backward_hooks or {})
    for name, buffer in model.named_buffers(remove_duplicate=False):
        seen[f"buffer {name}"] = (id(buffer), bits(buffer))
    for name, module in model.named_modules():
        seen[f"module {name}"] = (id(module), type(module), module.training, sorted(vars(module)))
        for key, value in vars(module).items():
            if "hooks" in key:
                seen[f"{key} {name}"] = [(number, id(hook)) for number, hook in value.items()]
    return seen


class Trips(torch.autograd.Function):
    """The identity, whose backward calls a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, act: Callable[[], None]) -> Tensor:
        ctx.act = act
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.act()
        return gradient, None


class Wire(nn.Module):
    """Draws from every generator and calls a function, in the middle of a model.

    The function belongs to all copies, so that it counts the calls of all of them.
    """

    def __init__(self, forward: Callable[[], None], backward: Callable[[], None]) -> None:
        super().__init__()
        self.calls = forward, backward

    def __deepcopy__(self, memo: dict[int, Any]) -> Wire:
        copied = Wire(*self.calls)
        copied.training = self.training
        return copied

    def forward(self, x: Tensor) -> Tensor:
        random.random()
        np.random.rand()  # noqa: NPY002
        self.calls[0]()
        return Trips.apply(x, self.calls[1])  # type: ignore[no-any-return]


def nothing() -> None:
    return None


def patient(
    forward: Callable[[], None] = nothing, backward: Callable[[], None] = nothing
) -> nn.Sequential:
    """A faulty model with something of everything that could be disturbed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.2),
        Wire(forward, backward),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 2),
    )
    with torch.no_grad():
        model[6].bias[:6] = -50  # most units of the second activation are dead
    model.register_buffer("spare", torch.full((2,), float("nan")))
    model.register_buffer("absent", None)
    model[5].weight.requires_grad_(False)
    model[0].weight.grad = torch.randn(8, 4)
    model[8].bias.grad = torch.full((2,), float("inf"))
    model[3].eval()
    model[1].eval()
    model[2].register_forward_hook(lambda *_: None)
    model[0].register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
    model[5].register_full_backward_hook(lambda *_: None)
    model[0].weight.register_hook(lambda gradient: None)
    return model


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 512, 4, generator=generator)
    return [(x, x[:, :2] * 0.5) for x in inputs]


def squared(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (output - batch[1]).square().mean()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def profile(model: nn.Module, data: list[Any], loss: Loss, optimizer: bool) -> object:
    return gradscope.profile(model, data, loss, optimizer=sgd if optimizer else None)


def scan(model: nn.Module, data: list[Any], loss: Loss, optimizer: bool) -> object:
    return gradscope.scan(Subject.of(model, data, loss, build_optimizer=sgd if optimizer else None))


def fix(model: nn.Module, data: list[Any], loss: Loss, optimizer: bool) -> object:
    subject = Subject.of(model, data, loss, build_optimizer=sgd if optimizer else None)
    # The one safe remedy there is for dead units keeps this to seconds.
    report = gradscope.fix(subject, budget=0.1, only=["artificial-derivative"], seeds=5)
    assert report.verdict is not None
    assert report.verdict.trials
    return report


ACTS = pytest.mark.parametrize("act", [profile, scan, fix])
WITH = pytest.mark.parametrize("optimizer", [False, True], ids=["no optimizer", "optimizer"])


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    with preserved(nn.Module(), seed=3):
        yield


@pytest.mark.parametrize(
    ("act", "mode"),
    [
        *((act, mode) for act in (profile, scan) for mode in ("mixed", "train", "eval")),
        (fix, "mixed"),
    ],
)
@WITH
def test_a_run_that_ends_well(act: Act, optimizer: bool, mode: str) -> None:
    model, data = patient(), batches()
    if mode != "mixed":
        model.train(mode == "train")
    torch.manual_seed(5)
    before, inputs = everything(model), [bits(x) for pair in data for x in pair]
    act(model, data, squared, optimizer)
    assert everything(model) == before
    assert [bits(x) for pair in data for x in pair] == inputs


class Fault:
    """Raises from one of its calls on, counted over all copies of the model."""

    def __init__(self, call: int, raised: BaseException) -> None:
        self.left, self.raised = call, raised
        self.fired = False

    def __call__(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.fired = True
            raise self.raised


@ACTS
@WITH
@pytest.mark.parametrize("where", ["forward", "loss", "backward"])
@pytest.mark.parametrize("raised", [ValueError("no"), KeyboardInterrupt("stop")], ids=type)
@pytest.mark.parametrize("call", [1, 4, 68])
def test_a_run_that_is_cut_short(
    act: Act, optimizer: bool, where: str, raised: BaseException, call: int
) -> None:
    if call == 68 and act is not fix:
        call = 8  # the last step of a profile
    fault = Fault(call, raised)
    model = patient(
        fault if where == "forward" else nothing, fault if where == "backward" else nothing
    )

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        if where == "loss":
            fault()
        return squared(output, batch)

    before = everything(model)
    expected = KeyboardInterrupt if isinstance(raised, KeyboardInterrupt) else ModelError
    if act is fix and call == 68 and expected is ModelError:
        # By then the candidate is being tried: what raises there is its refusal.
        subject = Subject.of(model, batches(), loss, build_optimizer=sgd if optimizer else None)
        report = gradscope.fix(subject, budget=0.1, only=["artificial-derivative"], seeds=5)
        assert "could not be run" in report.refusals[-1].reason
    else:
        with pytest.raises(expected):
            act(model, batches(), loss, optimizer)
    assert fault.fired
    assert everything(model) == before


@pytest.mark.parametrize("act", [profile, scan])
@WITH
def test_training_goes_on_as_if_nothing_had_been_looked_at(act: Act, optimizer: bool) -> None:
    def train(between: Callable[[nn.Module], object]) -> list[bytes | None]:
        model = patient().train()
        update = torch.optim.Adam(model.parameters())
        torch.manual_seed(7)
        for number, batch in enumerate(batches()):
            if number == 2:
                between(model)
            update.zero_grad()
            squared(model(batch[0]), batch).backward()
            update.step()
        return [bits(value) for value in model.state_dict().values()]

    assert train(lambda model: act(model, batches(), squared, optimizer)) == train(lambda model: 0)


# --- Models that change themselves ------------------------------------------------------------


class Renormalised(nn.Module):
    """Its embedding is scaled down in place, in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 4, max_norm=0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding((x[:, 0] * 3).long().abs() % 10))  # type: ignore[no-any-return]


class LateBuffer(nn.Module):
    """Its buffer is made in the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if "seen" not in self._buffers:
            self.register_buffer("seen", torch.zeros(()))
        self.seen = self.seen + 1
        return self.head(x)  # type: ignore[no-any-return]


class Expanded(nn.Module):
    """Its buffer cannot be written to, as many elements share one place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.ones(1, 4).expand(512, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.mask)  # type: ignore[no-any-return]


class SwappedBuffer(nn.Module):
    """Its buffer is another tensor, of another shape, after each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.register_buffer("cache", torch.zeros(0, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.cache = torch.cat([self.cache, x.detach()])
        return self.head(x)  # type: ignore[no-any-return]


class Freezing(nn.Module):
    """Freezes itself and changes its mode while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.trunk.requires_grad_(False).eval()
        return self.head(self.trunk(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("build", [Renormalised, LateBuffer, Expanded, SwappedBuffer, Freezing])
@WITH
def test_models_that_change_themselves_are_put_back(
    build: Callable[[], nn.Module], optimizer: bool
) -> None:
    torch.manual_seed(0)
    model = build()
    before = everything(model)
    gradscope.profile(model, batches(), squared, optimizer=sgd if optimizer else None)
    assert everything(model) == before


@pytest.mark.parametrize("build", [Renormalised, LateBuffer, Expanded, SwappedBuffer])
def test_a_self_changing_model_is_put_back_after_it_fails(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = everything(model)

    def loss(output: Tensor, batch: Any) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ModelError):
        gradscope.profile(model, batches(), loss)
    assert everything(model) == before


def test_a_buffer_that_an_outstanding_graph_needs_is_not_written_to() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.register_buffer("scale", torch.full((4,), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * self.head.weight[0] * self.scale)  # type: ignore[no-any-return]

    model, (batch, *_) = Scaled(), batches()
    outstanding = squared(model(batch[0]), batch)
    gradscope.profile(model, batches(), squared)
    outstanding.backward()
    assert model.head.weight.grad is not None


def test_a_model_that_kept_an_activation_can_still_be_examined_or_says_why_not() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.head(x)
            return self.last

    model, data = Keeps(), batches()
    kept = model(data[0][0])
    before = everything(model)
    found = gradscope.profile(model, data, squared, optimizer=sgd)
    assert found.optimizer == "SGD"
    assert all(ratio > 0 for entry in found.parameters for ratio in entry.update_ratio)
    # It cannot be copied, so it was trained itself, and put back.
    assert everything(model) == before
    assert model.last is kept
    with pytest.raises(ModelError, match="copied") as caught:
        gradscope.scan(Subject.of(model, data, squared))
    assert str(caught.value).startswith("Keeps")
