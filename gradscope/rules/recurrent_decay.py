"""GS602: the backward signal dies or explodes on its way through the time steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gradscope.records import Finding, Measure, Profile, Severity, SiteProfile
from gradscope.rules import Rule, first_faulty, in_most_steps, limit
from gradscope.rules.subjects import random_subject
from gradscope.subject import Subject

__all__ = ["Limits", "RecurrentDecay"]


@dataclass(frozen=True)
class Limits:
    """Each is the backward signal at the far end of time over that at the end near the loss."""

    warning: float = limit(
        1e-14, "ratio", "fresh RNN, LSTM, GRU: 1e-12 or more in 50 steps, 1e-19 or less in 100"
    )
    error: float = limit(1e-24, "ratio", "as the warning: 1e-28 or less in 120 steps")
    growth: float = limit(1e5, "ratio", "trained networks: up to 4e3; orthogonal x1.5: 9e7")


class RecurrentDecay(Rule[Limits]):
    """The backward signal dies or explodes on its way through the time steps.

    ## What it does
    A recurrent layer (``nn.RNN``, ``nn.LSTM``, ``nn.GRU``) hands each gradient back from time step
    to time step, and every step multiplies it by about the same factor. The rule compares the
    backward signal that reaches the layer's input at the first time step with that at the last one
    that the loss depends on. It fires where the ratio is below or above the limits in at least 5 of
    8 steps. Layers whose output is read at every time step have a short way to each of them, and a
    ratio near 1.

    ## Why it is bad
    Where next to nothing of the signal arrives at the first time steps, the layer cannot learn what
    they have to do with the target: it learns from the end of the sequence, or, where what matters
    lies at the beginning, not at all. An LSTM with its usual start forgets about a third per step,
    so that after a hundred steps 1e-19 is left. Where the signal grows, a few early time steps make
    up the whole gradient, and one batch can throw all weights about.

    What to do against decay: read the mean or the maximum over all time steps, or attend to them,
    in place of the last output; set the forget gates' biases of an LSTM to 1 or more (about the
    logarithm of the number of steps); draw recurrent weights with ``torch.nn.init.orthogonal_``;
    use an LSTM or GRU in place of a plain RNN; shorten sequences by pooling or strides; put padding
    at the beginning, or pack the sequences. Against growth: orthogonal recurrent weights, clipped
    gradients, truncated backpropagation.

    ## When it is wrong
    Where all that matters lies at the end of the sequences (padding stands before them), nothing is
    lost, and training finds longer ways by itself.

    ## References
    Bengio, Simard, Frasconi 1994 (Learning long-term dependencies with gradient descent is
    difficult); Pascanu, Mikolov, Bengio 2013 (On the difficulty of training recurrent neural
    networks); Jozefowicz, Zaremba, Sutskever 2015 (An empirical exploration of recurrent network
    architectures); Tallec, Ollivier 2018 (Can recurrent neural networks warp time?).
    """

    code = "GS602"
    name = "recurrent-decay"
    limits = Limits()
    explained_by = ("GS401", "GS302", "GS303", "GS202")

    def check(self, profile: Profile, limits: Limits) -> Finding | None:
        seen = {site: finite for site in profile.sites if (finite := _finite(site))}
        dying = [
            site
            for site, series in seen.items()
            if in_most_steps(r < limits.warning for r in series)
        ]
        growing = [
            site
            for site, series in seen.items()
            if in_most_steps(r > limits.growth for r in series)
        ]
        if dying:
            worst = min(dying, key=lambda site: statistics.median(seen[site]))
            ratio = statistics.median(seen[worst])
            severe = in_most_steps(value < limits.error for value in seen[worst])
            bound = limits.error if severe else limits.warning
            faulty = [value < limits.warning for value in worst.time_decay]
            message = f"Of the backward signal at {worst.name}, {ratio:.2g} is left"
        elif growing:
            worst = max(growing, key=lambda site: statistics.median(seen[site]))
            ratio = statistics.median(seen[worst])
            severe, bound = True, limits.growth
            faulty = [value > limits.growth for value in worst.time_decay]
            message = f"The backward signal at {worst.name} has grown {ratio:.2g} times"
        else:
            return None
        return self.finding(
            Severity.ERROR if severe else Severity.WARNING,
            [site.name for site in dying or growing],
            f"{message} at the far end of its {worst.time_steps} time steps (limit {bound:g}).",
            {
                "backward signal, far over near end of time": Measure(ratio, bound, profile.source),
            },
            since=first_faulty(faulty),
        )

    def bad(self) -> Subject:
        return _over_time("an RNN over 200 steps, read at the last one", lambda x: x[:, -1])

    def good(self) -> Subject:
        return _over_time("the same, read at all of them", lambda x: x.mean(dim=1))


class _Recurrent(nn.Module):
    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.recurrent = nn.RNN(4, 32, batch_first=True)
        self.head = nn.Linear(32, 10)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.recurrent(x)[0]))  # type: ignore[no-any-return]


def _over_time(name: str, read: Callable[[Tensor], Tensor]) -> Subject:
    return random_subject(name, lambda: _Recurrent(read), shape=(64, 200, 4))


def _finite(site: SiteProfile) -> list[float]:
    return [ratio for ratio in site.time_decay if math.isfinite(ratio)]
