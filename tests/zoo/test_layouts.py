"""Statistics of tensors of any shape, type and memory layout, against the reference.

The reference converts what it captures to float64 exactly, whatever it is stored as.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor, nn

import gradscope
from gradscope.errors import ModelError
from gradscope.records import Profile
from tests.zoo.comparing import RELATIVE, compare
from tests.zoo.families import Family
from tests.zoo.reference import Axes, call_model, measure

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Layout = Callable[[Tensor], Tensor]


def through(*axes: int) -> Layout:
    """Stored in another order of its dimensions, seen in the same."""

    def layout(x: Tensor) -> Tensor:
        order = [axis % x.ndim for axis in axes]
        return x.transpose(*order).contiguous().transpose(*order)

    return layout


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def expanded(x: Tensor) -> Tensor:
    """Stored once for all positions of the last dimension but one."""
    if x.ndim == 2:
        return x.mean(dim=1, keepdim=True).expand(-1, x.shape[1])
    return x.mean(dim=-2, keepdim=True).expand(*(-1,) * (x.ndim - 2), x.shape[-2], -1)


LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": channels_last,
    "samples inside": through(0, -1),
    "units inside": through(1, -1),
    "expanded": expanded,
    "every other": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
    "from a larger one": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "backwards": lambda x: x.flip(-1),
}


class Laid(nn.Module):
    """Parameters of its own, so that its output is a site as it is stored."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.gain, self.layout = nn.Parameter(torch.tensor(0.8)), layout

    def forward(self, x: Tensor) -> Tensor:
        return self.layout(x * self.gain)


class Network(nn.Module):
    def __init__(self, channels: bool, features: int, layout: Layout, act: nn.Module) -> None:
        super().__init__()
        width = 5
        self.layer = nn.Conv2d(features, width, 1) if channels else nn.Linear(features, width)
        self.laid, self.act = Laid(layout), act

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.act(self.laid(self.layer(x))))


def square(output: Tensor, batch: Tensor) -> Tensor:
    return output.float().square().mean()


def batches_of(
    sizes: list[int], shape: tuple[int, ...], dtype: torch.dtype, scale: float = 2.0
) -> list[Tensor]:
    source = torch.Generator().manual_seed(len(shape))
    return [
        (torch.randn(samples, *shape, generator=source, dtype=torch.float64) * scale).to(dtype)
        for samples in sizes
    ]


def held_against_the_reference(
    model: nn.Module, batches: list[Tensor], axes: Axes, sizes: list[int]
) -> None:
    steps = len(batches)
    profile = gradscope.profile(model, batches, square, steps=steps)
    reference = measure(
        model,
        batches,
        lambda model, batch: square(call_model(model, batch), batch),
        axes=axes,
        steps=steps,
        # Gradients of halves are added up in the parameters' type, which rounds in a short one.
        noise=len(set(sizes)) == 1 and sizes[0] > 1 and batches[0].dtype.itemsize > 2,
    )
    family = Family("layouts", lambda: model, lambda: batches)
    faults = compare(profile, reference, family).faults
    if reference.noise is None:
        faults = [fault for fault in faults if not fault.startswith("gradient noise")]
    assert not faults, "\n".join(faults)


ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.Hardtanh)


@settings(max_examples=60)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(FLOATS),
    positions=st.lists(st.integers(1, 4), max_size=2).map(tuple),
    channels=st.booleans(),
    act=st.sampled_from(ACTIVATIONS),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
@example("expanded", torch.float64, (), False, nn.ReLU, [6])  # each sample is constant
def test_any_layout_and_type(
    layout: str,
    dtype: torch.dtype,
    positions: tuple[int, ...],
    channels: bool,
    act: Callable[[], nn.Module],
    sizes: list[int],
) -> None:
    torch.manual_seed(0)
    channels = channels and len(positions) == 2
    shape = (3, *positions) if channels else (*positions, 3)
    model = Network(channels, 3, LAYOUTS[layout], act()).to(dtype)
    axes = Axes(units_at_1=("*",) if channels else ())
    held_against_the_reference(model, batches_of(sizes, shape, dtype), axes, sizes)


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(FLOATS),
    samples=st.sampled_from([2, 63, 64, 65, 130]),
    positions=st.sampled_from([1, 3, 40]),
    width=st.sampled_from([2, 26, 1023, 1024, 1025]),
)
def test_more_than_is_looked_at(
    dtype: torch.dtype, samples: int, positions: int, width: int
) -> None:
    """Correlation sees 64 samples and 1024 elements of each, the rank 128 observations."""
    torch.manual_seed(0)
    positions = min(positions, 2048 // width) or 1
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU()).to(dtype)
    batches = batches_of([samples], (positions, 2), dtype)
    held_against_the_reference(model, batches, Axes(), [samples])


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(FLOATS),
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -2.5, 6e4, 1e-7, np.inf, -np.inf, np.nan]),
        min_size=6,
        max_size=24,
    ),
    act=st.sampled_from([nn.ReLU, nn.Identity, nn.Hardtanh]),
)
def test_numbers_that_are_none(
    dtype: torch.dtype, values: list[float], act: Callable[[], nn.Module]
) -> None:
    """Counts stay exact where a tensor holds zeros, infinities and NaN."""

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(3, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.nothing

    x = torch.tensor(values[: len(values) // 3 * 3]).view(-1, 3).to(dtype)
    profile = gradscope.profile(nn.Sequential(Given(), act()), [x], square, steps=1)
    exact = x.double().numpy()
    finite = np.abs(exact[np.isfinite(exact)])
    site = profile.site("0")
    assert site.forward_nonfinite == (int((~np.isfinite(exact)).sum()),)
    assert site.zeros == (exact == 0).mean()
    np.testing.assert_array_equal(site.forward_peak, [finite.max() if finite.size else np.nan])
    with np.errstate(invalid="ignore"):
        expected = np.sqrt(np.mean(exact**2))
    np.testing.assert_allclose(site.forward_rms[0], expected, rtol=RELATIVE)
    if act is nn.ReLU:
        positive = exact > 0
        assert profile.site("1").dead == (~positive).all(axis=0).mean()
        assert profile.site("1").always_positive == positive.all(axis=0).mean()


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def profiled(*sizes: int, **options: Any) -> Profile:
    batches = batches_of(list(sizes), (3,), torch.float32)
    return gradscope.profile(perceptron(), batches, square, steps=len(sizes), **options)


@pytest.mark.parametrize("sizes", [(0,), (8, 0, 8)])
def test_a_batch_without_samples_is_refused_by_its_number(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"Batch {sizes.index(0)}.*no sample"):
        profiled(*sizes)


def test_one_sample_has_no_variation() -> None:
    found = profiled(1, 1)
    for site in found.sites:
        np.testing.assert_equal(site.variation, [np.nan, np.nan])
        np.testing.assert_equal(site.correlation, [np.nan, np.nan])
        assert site.effective_rank is None
    assert {"variation", "gradient noise"} <= {entry.what for entry in found.skipped}


def test_a_last_batch_may_be_smaller() -> None:
    sizes = [8, 5, 3]
    batches = batches_of(sizes, (3,), torch.float32)
    held_against_the_reference(perceptron(), batches, Axes(), sizes)


@given(scale=st.sampled_from([2.0**-20, 0.5, 65536.0]))
@settings(max_examples=3)
def test_the_scale_of_the_loss_is_undone(scale: float) -> None:
    """A power of two changes no digit."""
    batches = batches_of([8, 8], (3,), torch.float32)
    plain = gradscope.profile(perceptron(), batches, square, steps=2)
    scaled = gradscope.profile(perceptron(), batches, square, steps=2, loss_scale=scale)
    assert scaled.losses == plain.losses
    for one, other in zip(scaled.sites, plain.sites, strict=True):
        assert one.backward_rms == pytest.approx(other.backward_rms, rel=1e-12)
    for one, other in zip(scaled.parameters, plain.parameters, strict=True):
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-12)
    assert scaled.gradient_noise is not None
    assert plain.gradient_noise is not None
    assert scaled.gradient_noise.covariance == pytest.approx(plain.gradient_noise.covariance)
