"""The gradient of a recurrent layer's input over time, and that nobody notices who asks for it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.profile import through_time
from gradscope.records import Profile

STEPS, SAMPLES, TIME, FEATURES, WIDTH = 2, 6, 9, 3, 4

Read = Callable[[Tensor], Tensor]


def last(h: Tensor) -> Tensor:
    return h[:, -1]


def own_step(h: Tensor) -> Tensor:
    """Each sample read at a step of its own; zero gradient behind."""
    return h[torch.arange(len(h)), 2 + torch.arange(len(h)) % 5]


def every(h: Tensor) -> Tensor:
    return h.mean(dim=1)


class Net(nn.Module):
    """A recurrent layer on raw data; ``call`` is how it is called."""

    def __init__(
        self,
        layer: nn.Module,
        read: Read = last,
        call: Callable[[nn.Module, Tensor], Tensor] = lambda layer, x: layer(x)[0],
    ) -> None:
        super().__init__()
        self.layer, self.read, self.call = layer, read, call

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.call(self.layer, x))


def recurrent(kind: type[nn.RNNBase] = nn.GRU, **options: Any) -> nn.RNNBase:
    torch.manual_seed(0)
    return kind(FEATURES, WIDTH, batch_first=True, **options)


def data() -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(SAMPLES, TIME, FEATURES, generator=source)


def square(y: Any, _: Any = None) -> Tensor:
    return y.square().mean()  # type: ignore[no-any-return]


def profile(model: nn.Module, x: Tensor | None = None, **options: Any) -> Profile:
    batch = data() if x is None else x
    return gradscope.profile(model, [batch, batch], square, steps=STEPS, **options)


def gradient(model: nn.Module, x: Tensor | None = None) -> Tensor:
    """Of the loss, by the whole input."""
    x = (data() if x is None else x).clone().requires_grad_()
    (found,) = torch.autograd.grad(square(model(x)), x)
    return found.double()


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def reasons(found: Profile) -> str:
    return " ".join(entry.reason for entry in found.skipped)


# --- Which ratio it is ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_time_step_over_the_last_one(kind: type[nn.RNNBase], layers: int) -> None:
    model = Net(recurrent(kind, num_layers=layers))
    site, g = profile(model).site("layer"), gradient(model)
    assert site.time_steps == TIME
    assert site.time_decay == pytest.approx([rms(g[:, 0]) / rms(g[:, -1])] * STEPS, rel=1e-5)
    assert site.time_decay[0] < 0.5


def test_a_loss_on_all_time_steps_leaves_little_decay() -> None:
    assert 0.3 < profile(Net(recurrent(), every)).site("layer").time_decay[0] < 10


def test_padding_behind_a_sample_is_not_the_near_end() -> None:
    model = Net(recurrent(), own_step)
    g = gradient(model)
    near = torch.stack([g[i, 2 + i % 5] for i in range(SAMPLES)])
    found = profile(model).site("layer").time_decay
    assert found == pytest.approx([rms(g[:, 0]) / rms(near)] * STEPS, rel=1e-5)


def test_both_ways_the_middle_is_far_from_both_ends() -> None:
    model = Net(recurrent(bidirectional=True), lambda h: torch.cat([h[:, -1], h[:, 0]], dim=1))
    g = gradient(model)
    expected = rms(g[:, (TIME - 1) // 2]) / max(rms(g[:, 0]), rms(g[:, -1]))
    found = profile(model).site("layer").time_decay
    assert found == pytest.approx([expected] * STEPS, rel=1e-5)
    assert found[0] < 0.7


@pytest.mark.parametrize("unbatched", [True, False])
def test_time_first(unbatched: bool) -> None:
    torch.manual_seed(0)
    x = data()[0] if unbatched else data().transpose(0, 1).contiguous()
    model = Net(nn.GRU(FEATURES, WIDTH), lambda h: h[-1])
    g = gradient(model, x)
    site = profile(model, x).site("layer")
    assert site.time_steps == TIME
    assert site.time_decay == pytest.approx([rms(g[0]) / rms(g[-1])] * STEPS, rel=1e-5)


def test_one_layer_after_another_has_its_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lower = nn.LSTM(FEATURES, WIDTH, batch_first=True)
            self.upper = nn.LSTM(WIDTH, WIDTH, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.lower(input=x)[0]
            return last(h + self.upper(h)[0])  # the way around is not the upper layer's

    model = Two()
    found = profile(model)
    h = model.lower(data())[0].detach().requires_grad_()
    (g,) = torch.autograd.grad(square(last(h.detach() + model.upper(h)[0])), h)
    upper = rms(g[:, 0].double()) / rms(g[:, -1].double())
    assert found.site("upper").time_decay == pytest.approx([upper] * STEPS, rel=1e-5)
    g = gradient(model)
    lower = rms(g[:, 0]) / rms(g[:, -1])
    assert found.site("lower").time_decay == pytest.approx([lower] * STEPS, rel=1e-5)


def test_scale_reduction_and_updates_do_not_change_what_it_means() -> None:
    first = profile(Net(recurrent())).site("layer").time_decay[0]
    for options in ({"loss_scale": 256.0}, {"optimizer": torch.optim.Adam}):
        found = profile(Net(recurrent()), **options).site("layer").time_decay
        assert found[0] == pytest.approx(first, rel=1e-5)


def test_numbers_that_are_none() -> None:
    x = data()
    x[0, 0, 0] = torch.nan
    found = profile(Net(recurrent()), x).site("layer").time_decay
    assert all(value != value for value in found)
    dead = Net(recurrent(nn.RNN, nonlinearity="relu"))
    for bias in (dead.layer.bias_ih_l0, dead.layer.bias_hh_l0):
        nn.init.constant_(bias, -100.0)
    assert all(value != value for value in profile(dead).site("layer").time_decay)


# --- Where it is not looked at ----------------------------------------------------------------


def test_one_time_step_has_no_ends() -> None:
    site = profile(Net(recurrent()), data()[:, :1]).site("layer")
    assert (site.time_steps, site.time_decay) == (1, ())


def test_packed_sequences_are_named() -> None:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        lengths = torch.arange(len(x), 0, -1) + 1
        return layer(pack_padded_sequence(x, lengths, batch_first=True))[1][-1]

    found = profile(Net(recurrent(), lambda h: h, call))
    assert (found.site("layer").time_steps, found.site("layer").time_decay) == (SAMPLES + 1, ())
    assert "packed" in reasons(found)


def test_what_does_not_train_stays_without_gradients() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = recurrent().requires_grad_(False), nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x)[0]
            h.numpy()
            return self.head(last(h))  # type: ignore[no-any-return]

    assert profile(Frozen()).site("layer").time_decay == ()


def test_hooks_of_others_are_shown_their_own_input() -> None:
    def look(_: nn.Module, given: tuple[Tensor, ...], __: Any) -> None:
        given[0].numpy()

    model = Net(recurrent())
    model.layer.register_forward_hook(look)
    found = profile(model)
    assert found.site("layer").time_decay == ()
    assert "hooks" in reasons(found)


def test_a_layer_with_a_forward_of_its_own_may_write_to_its_input() -> None:
    class Centred(nn.GRU):
        def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:  # type: ignore[override]
            return super().forward(x.sub_(x.mean(dim=1, keepdim=True)), hx)

    torch.manual_seed(0)
    model = Net(Centred(FEATURES, WIDTH, batch_first=True), call=lambda f, x: f(x.clone())[0])
    found = profile(model)
    assert found.site("layer").time_decay == ()
    assert "forward of its own" in reasons(found)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_layers(reentrant: bool) -> None:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(layer, x, use_reentrant=reentrant)[0]  # type: ignore[no-any-return]

    torch.manual_seed(0)
    below = nn.Linear(FEATURES, FEATURES)
    plain = profile(nn.Sequential(below, Net(recurrent())))
    recomputed = profile(nn.Sequential(below, Net(recurrent(), call=call)))
    expected = plain.site("1.layer").time_decay
    assert recomputed.site("1.layer").time_decay == pytest.approx(expected)


def test_inside_torch_func_nothing_is_asked_for() -> None:
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        weights = dict(layer.named_parameters())

        def energy(weights: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(layer, weights, (x,))[0].square().mean()

        slopes = torch.func.grad(energy)(weights)
        return layer(x)[0] + sum(slope.sum() for slope in slopes.values())  # type: ignore[no-any-return]

    assert profile(Net(recurrent(), call=call)).losses[0] > 0


# --- That nobody notices ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_outputs_losses_and_gradients_are_those_without_it(
    kind: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def read(h: Tensor) -> Tensor:
        seen.append((h.detach().clone(), h.stride(), h.requires_grad, h.is_leaf))
        return last(h)

    def numbers() -> tuple[Any, ...]:
        seen.clear()
        model = Net(recurrent(kind, num_layers=2, dropout=0.3), read)
        found = profile(model, optimizer=torch.optim.Adam)
        values = [(entry.gradient_norm, entry.update_ratio) for entry in found.parameters]
        return found.losses, values, list(seen)

    losses, values, outputs = numbers()
    monkeypatch.setattr(through_time, "opened", lambda module, x: None)
    plain = numbers()
    assert (losses, values) == plain[:2]
    for one, other in zip(outputs, plain[2], strict=True):
        assert torch.equal(one[0], other[0])
        assert one[1:] == other[1:]


@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_users_tensor_is_as_it_was_and_nothing_is_kept(
    requires_grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases: list[weakref.ref[Tensor]] = []
    opened = through_time.opened

    def noting(module: nn.RNNBase, x: Tensor) -> through_time.Sequence | None:
        sequence = opened(module, x)
        assert sequence is not None
        aliases.append(weakref.ref(sequence.alias))
        return sequence

    monkeypatch.setattr(through_time, "opened", noting)
    x = data().requires_grad_(requires_grad)
    before = x.detach().clone()
    model = Net(recurrent())
    profile(model, x)
    assert torch.equal(x, before)
    assert (x.requires_grad, x.grad, x._version) == (requires_grad, None, 0)
    assert x._backward_hooks is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.layer._forward_pre_hooks
    gc.collect()
    assert len(aliases) == STEPS
    assert [ref() for ref in aliases] == [None] * STEPS
