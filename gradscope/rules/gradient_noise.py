"""GS105: a batch's gradient is noise for the most part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, Skipped
from gradscope.rules import Rule, limit
from gradscope.rules.subjects import perceptron
from gradscope.subject import Subject

__all__ = ["GradientNoise", "Limits"]


@dataclass(frozen=True)
class Limits:
    noise: float = limit(0.9, "share of a batch's squared gradient", "noise scale of nine batches")
    samples: float = limit(
        4, "samples in a batch", "of 16 and more all of it may look like noise in healthy training"
    )


class GradientNoise(Rule[Limits]):
    """A batch's gradient is noise for the most part.

    ## What it does
    Two batches never give quite the same gradient. The rule estimates, from four batches and their
    halves, how much of the squared norm of a batch's gradient is that accident of which samples
    are in it. It speaks only of batches of a few samples, as a remark: from larger ones so few
    batches do not tell it well, and such noise does them no harm.

    ## Why it is bad
    Updates made of such gradients go mostly nowhere: they cancel out over the steps, and what is
    left is paid for with a small learning rate. The noise scale is the batch size at which noise
    and gradient are equal: below it, twice the batch takes about half the steps.

    What to do: use larger batches, or add up the gradients of several before each step
    (gradient accumulation); else a smaller learning rate, a larger momentum, or an average of the
    weights over steps. Where accuracy on the training set is no better than a guess, look whether
    targets belong to their inputs: gradients of shuffled labels are noise alone.

    ## When it is wrong
    Near the end of training the gradient over all data goes to zero and noise is all there is. A
    few long sequences hold many tokens, which the estimate accounts for. Four batches give a rough
    estimate.

    ## References
    McCandlish et al. 2018 (An empirical model of large-batch training), sections 2.2 and A.1.
    """

    code = "GS105"
    name = "gradient-noise"
    limits = Limits()

    def check(self, profile: Profile, limits: Limits) -> Finding | Skipped | None:
        noise = profile.gradient_noise
        if noise is None:
            return Skipped(self.code, "the noise of the gradient could not be estimated")
        if profile.batch_size > limits.samples or not profile.parameters:
            return None
        by_chance = noise.covariance / profile.batch_size
        # Noise can make the estimate of the squared norm negative: nothing is left of it then.
        share = by_chance / (by_chance + max(0.0, noise.squared_norm)) if by_chance > 0 else 0.0
        if not share > limits.noise:
            return None
        scale = "" if math.isnan(noise.scale) else f"; the noise scale is {noise.scale:.2g} samples"
        return self.finding(
            Severity.INFO,
            [max(profile.parameters, key=lambda entry: entry.gradient_norm[-1] or 0.0).name],
            f"Of the squared gradient of a batch of {profile.batch_size}, {share:.0%} is noise "
            f"(limit {limits.noise:.0%}){scale}.",
            {
                "noise, share of a batch's squared gradient": Measure(
                    share, limits.noise, profile.source
                ),
                "samples in a batch": Measure(profile.batch_size, limits.samples, profile.source),
            },
        )

    def bad(self) -> Subject:
        return _classification(samples=4, learnable=False)

    def good(self) -> Subject:
        return _classification(samples=64, learnable=True)


@dataclass(frozen=True)
class _Labelled:
    """Random inputs with labels that a linear map makes of them, or that are random too."""

    samples: int
    learnable: bool
    batches: int = 40

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        plane = torch.randn(32, 10, generator=generator)
        for _ in range(self.batches):
            inputs = torch.randn(self.samples, 32, generator=generator)
            labels = torch.randint(10, (self.samples,), generator=generator)
            yield inputs, (inputs @ plane).argmax(dim=1) if self.learnable else labels


def _classification(samples: int, *, learnable: bool) -> Subject:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    return Subject(
        name=f"batches of {samples}" + ("" if learnable else " with random labels"),
        build_model=lambda: perceptron(nn.ReLU, layers=2),
        build_data=lambda: _Labelled(samples, learnable),
        step=step,
        build_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    )
