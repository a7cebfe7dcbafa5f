"""Healthy models that make pictures or points."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tests.zoo.subjects.datasets import images, moons
from tests.zoo.subjects.networks import autoencoder
from tests.zoo.subjects.optimizers import adam, adamw
from tests.zoo.subjects.tasks import fresh_and_trained, reconstruct

SMALL = partial(images, 14)
FEW_PIXELS = 14 * 14


class ConvolutionalAutoencoder(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * 16, 16),
            nn.Linear(16, 24 * 16),
            nn.Unflatten(1, (24, 4, 4)),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 4, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(12, 1, 4, 2, 0),
        )


def restore(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The picture from one in which a third of the pixels are missing."""
    seen = batch[0] * (torch.rand_like(batch[0]) > 1 / 3)
    return functional.binary_cross_entropy_with_logits(model(seen), batch[0])


class Variational(nn.Module):
    """Kingma, Welling 2014."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEW_PIXELS, 128), nn.ReLU())
        self.mean = nn.Linear(128, code)
        self.log_variance = nn.Linear(128, code)
        self.decoder = nn.Sequential(nn.Linear(code, 128), nn.ReLU(), nn.Linear(128, FEW_PIXELS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x.flatten(1))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


def bound(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The negative evidence lower bound in nats per picture."""
    logits, mean, log_variance = model(batch[0])
    missed = functional.binary_cross_entropy_with_logits(
        logits, batch[0].flatten(1), reduction="none"
    )
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp())
    return (missed.sum(dim=1) + divergence.sum(dim=1)).mean()


class Adversaries(nn.Module):
    """A generator and a discriminator, trained in turn on half a batch each (Radford 2016)."""

    def __init__(self, code: int = 16) -> None:
        super().__init__()
        self.code = code
        self.generator = nn.Sequential(
            nn.Linear(code, 96),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Linear(96, 96),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Linear(96, FEW_PIXELS),
            nn.Sigmoid(),
        )
        self.discriminator = nn.Sequential(
            nn.Linear(FEW_PIXELS, 96), nn.LeakyReLU(0.2), nn.Linear(96, 1)
        )

    def made(self, pictures: int) -> Tensor:
        return self.generator(torch.randn(pictures, self.code))  # type: ignore[no-any-return]


def play(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Both losses at once; neither network learns from the other's."""
    assert isinstance(model, Adversaries)
    made = model.made(len(batch[0]))
    judge = model.discriminator
    real, fake = judge(batch[0].flatten(1)), judge(made.detach())
    frozen = {name: parameter.detach() for name, parameter in judge.named_parameters()}
    passing = cast(Tensor, torch.func.functional_call(judge, frozen, (made,)))
    return (
        functional.softplus(-real) + functional.softplus(fake) + functional.softplus(-passing)
    ).mean()


def difference_error(model: nn.Module) -> dict[str, float]:
    """How far the mean made picture is from the mean real one, root mean square per pixel."""
    assert isinstance(model, Adversaries)
    real = SMALL().images.flatten(1).mean(dim=0)
    return {"error": float((model.made(256).mean(dim=0) - real).square().mean().sqrt())}


def judge() -> nn.Module:
    """A discriminator with bounded slope (Miyato et al. 2018)."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(1, 16, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(16, 24, 3, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        spectral_norm(nn.Linear(24 * 16, 1)),
    )


def tell_apart(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Pictures from averages of two of them."""
    mixed = (batch[0] + batch[0].roll(1, dims=0)) / 2
    return (functional.softplus(-model(batch[0])) + functional.softplus(model(mixed))).mean()


class Denoiser(nn.Module):
    """Says which noise was added, given how much (Ho, Jain, Abbeel 2020); starts at zero."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear(FEW_PIXELS, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, FEW_PIXELS)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angle = time[:, None] * 1000.0 ** (torch.arange(8) / 8)
        when = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        hidden = functional.silu(self.first(x) + when)
        return self.last(hidden + functional.silu(self.middle(hidden)))  # type: ignore[no-any-return]


def denoise(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    clean = 2 * batch[0].flatten(1) - 1
    noise, time = torch.randn_like(clean), torch.rand(len(clean))
    angle = time[:, None] * math.pi / 2
    return functional.mse_loss(model(angle.cos() * clean + angle.sin() * noise, time), noise)


class Coupling(nn.Module):
    """One coordinate is moved and stretched by what the other says (Dinh et al. 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one, other = x[:, :1], x[:, 1:]
        stretch, shift = self.layers(one).chunk(2, dim=1)
        stretch = torch.tanh(stretch)
        return torch.cat([other * stretch.exp() + shift, one], dim=1), stretch.squeeze(1)


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        """The log density of each point."""
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            x, stretch = coupling(x)
            volume = volume + stretch
        return volume - 0.5 * x.square().sum(dim=1) - math.log(2 * math.pi)


def likelihood(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -model(batch[0]).mean()


class MaskedLinear(nn.Linear):
    """Sees nothing of what comes later (Germain et al. 2015)."""

    def __init__(self, before: Tensor, after: Tensor, *, strict: bool) -> None:
        super().__init__(len(before), len(after))
        later = before[None, :] >= after[:, None] if strict else before[None, :] > after[:, None]
        self.register_buffer("mask", (~later).float())

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.mask, Tensor)
        return functional.linear(x, self.weight * self.mask, self.bias)


def pixel_by_pixel(width: int = 256) -> nn.Module:
    pixels, hidden = torch.arange(FEW_PIXELS), torch.arange(width) % (FEW_PIXELS - 1)
    return nn.Sequential(
        MaskedLinear(pixels, hidden, strict=False),
        nn.ReLU(),
        MaskedLinear(hidden, hidden, strict=False),
        nn.ReLU(),
        MaskedLinear(hidden, pixels, strict=True),
    )


def next_pixels(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Nats per picture of black and white."""
    pixels = (batch[0].flatten(1) > 0.4).float()
    missed = functional.binary_cross_entropy_with_logits(model(pixels), pixels, reduction="none")
    return missed.sum(dim=1).mean()


CASES = (
    *fresh_and_trained(
        "autoencoder",
        lambda: autoencoder([128, 16], nn.ReLU),
        adam(),
        step=reconstruct,
        trained=300,
    ),
    *fresh_and_trained(
        "autoencoder-convolutional",
        ConvolutionalAutoencoder,
        adam(2e-3),
        step=restore,
        data=SMALL,
    ),
    *fresh_and_trained("variational", Variational, adam(), step=bound, data=SMALL, trained=300),
    *fresh_and_trained(
        "adversaries",
        Adversaries,
        adam(1e-3, betas=(0.5, 0.999)),
        step=play,
        data=SMALL,
        trained=400,
        evaluate=difference_error,
    ),
    *fresh_and_trained(
        "discriminator",
        judge,
        adam(2e-3, betas=(0.5, 0.999)),
        step=tell_apart,
        data=partial(images, 16),
    ),
    *fresh_and_trained("denoiser", Denoiser, adamw(2e-3), step=denoise, data=SMALL, trained=300),
    *fresh_and_trained("flow", Flow, adam(3e-3), step=likelihood, data=moons, trained=300),
    *fresh_and_trained("pixel-by-pixel", pixel_by_pixel, adam(2e-3), step=next_pixels, data=SMALL),
)
