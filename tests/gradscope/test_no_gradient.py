"""What GS103 must not take for a fault: parts that are used at times, biases that cancel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradscope


class Sometimes(nn.Module):
    """Each pass goes through one of eight branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x + self.branches[self.passes % 8](x)  # type: ignore[no-any-return]


class Unused(nn.Module):
    """Has a token for a task that it is not trained for."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def differences(output: Tensor, _: Tensor) -> Tensor:
    """Of pairs of samples: what is added to all outputs drops out."""
    return (output[::2] - output[1::2]).square().mean()


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (Sometimes, lambda output, _: output.square().mean()),
        (Unused, lambda output, _: output.square().mean()),
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), differences),
    ],
    ids=["used at times", "never used", "bias that cancels"],
)
def test_no_finding(
    model: Callable[[], nn.Module], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(16, 4) for _ in range(8)]
    profile = gradscope.profile(
        model(), batches, loss, optimizer=lambda p: torch.optim.SGD(p, lr=0.01)
    )
    assert "GS103" not in gradscope.diagnose(profile).codes


def test_a_weight_that_never_gets_one_is_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[0].register_forward_hook(lambda module, inputs, output: output.detach())
    profile = gradscope.profile(
        model, [torch.randn(16, 4)], lambda output, _: output.square().mean()
    )
    (finding,) = [each for each in gradscope.diagnose(profile) if each.code == "GS103"]
    assert set(finding.sites) == {"0.weight", "0.bias"}
