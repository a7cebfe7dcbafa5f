"""What a profile says where it cannot see, and that it sees the rest all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.errors import ModelError
from gradscope.records import Profile
from tests.zoo.families import FAMILIES
from tests.zoo.families.entry import mean_square
from tests.zoo.families.ways import Way


def rows(samples: int = 8, count: int = 3) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(samples, 4, generator=source) for _ in range(count)]


def profiled(model: nn.Module, batches: list[Any] | None = None, **options: Any) -> Profile:
    torch.manual_seed(0)
    return gradscope.profile(model, batches or rows(), mean_square, steps=2, **options)


def reason(profile: Profile, what: str) -> str:
    (found,) = [entry.reason for entry in profile.skipped if entry.what.startswith(what)]
    return found


def test_a_complex_output_is_named_and_the_rest_is_measured() -> None:
    family = FAMILIES["spectral"]
    profile = gradscope.profile(family.build(), family.batches(), family.loss, steps=2)
    assert "complex" in reason(profile, "complex")
    assert [site.name for site in profile.sites] == ["stem", "beside", "::relu@0", "head"]
    assert all(entry.reached for entry in profile.parameters)


def test_scores_inside_a_fused_kernel_are_named_unless_they_are_asked_for() -> None:
    family = FAMILIES["gpt"]
    plain, asked = (
        gradscope.profile(
            family.build(), family.batches(), family.loss, steps=2, attention=attention
        )
        for attention in (False, True)
    )
    assert "attention=True" in reason(plain, "h.0.attn")
    assert plain.site("h.0.attn::scaled_dot_product_attention@0").entropy == ()
    assert not [entry for entry in asked.skipped if entry.what.startswith("h.")]
    assert len(asked.site("h.0.attn::scaled_dot_product_attention@0").entropy) == 2


def test_without_an_optimizer_there_are_no_updates() -> None:
    assert "optimizer" in reason(profiled(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), "updates")


def test_batches_that_cannot_be_divided_have_no_gradient_noise() -> None:
    def among_themselves(output: Tensor, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output @ output.T, torch.arange(8))

    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    profile = gradscope.profile(model, rows(), among_themselves, steps=2)
    assert profile.gradient_noise is None
    assert reason(profile, "gradient noise")
    assert profile.site("1").backward_rms[0] > 0


@pytest.mark.parametrize("kind", ["frozen", "detached"])
def test_a_loss_without_gradient_is_still_a_forward_pass(kind: str) -> None:
    layer = nn.Linear(4, 3)
    if kind == "frozen":
        layer.requires_grad_(False)
    model = Way(lambda self, x: torch.tanh(self.layer(x)).detach(), layer=layer)
    profile = profiled(model)
    assert [site.name for site in profile.sites] == ["layer", "::tanh@0"]
    assert str(profile.site("layer").backward_rms) == "(nan, nan)"
    assert profile.parameters[0].gradient_norm == (None, None)
    assert reason(profile, "gradient noise")


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (nn.Sequential(nn.ReLU()), "no parameters"),
        (nn.Sequential(nn.LazyLinear(3), nn.ReLU()), "lazy"),
    ],
)
def test_what_cannot_be_trained_is_refused(model: nn.Module, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        profiled(model)


def test_a_model_without_a_loss_is_refused() -> None:
    with pytest.raises(ModelError, match="loss"):
        gradscope.profile(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), rows(), steps=1)


def test_integer_sparse_and_empty_outputs_are_no_sites() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).argmax(dim=1)

    class Sparse(Chooses):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).relu_().to_sparse()

    def way(self: Any, x: Tensor) -> Tensor:
        chosen = self.chooses(x)
        nobody = torch.relu(x[chosen > 9])
        return self.head(x) + self.sparse(x).to_dense() + nobody.sum()

    profile = profiled(Way(way, chooses=Chooses(), sparse=Sparse(), head=nn.Linear(4, 3)))
    assert [site.name for site in profile.sites] == ["head", "sparse::relu@0"]
