"""The paper's two networks for CIFAR-100: AlexNet, and one of 13 convolutions.

The paper gives the channels and the pools (table 6) and the numbers of parameters, 2,495,396 and
7,488,292. It leaves open, and here is chosen:

- kernels: 11 x 11 with stride 4 first, then 5 x 5 (one in AlexNet, four in the extended one), then
  3 x 3; one linear layer at the end; a bias everywhere. With 100 classes this gives exactly the
  paper's numbers of parameters.
- padding of half a kernel, pools of 2 x 2, an activation after each convolution, no dropout. The
  linear layer's size then fits, too.
- biases: zero, but torch's own in its default initialisation. The fan of a convolution counts its
  kernel.

Source: Hu, Zhang, Ge, "Handling Vanishing Gradient Problem Using Artificial Derivative", section
III.C.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

__all__ = ["ALEXNET", "EXTENDED", "Network", "build_model", "initialise"]


@dataclass(frozen=True)
class Network:
    """A column of table 6: channels after each convolution, and the convolutions before pools."""

    channels: tuple[int, ...]
    pools: tuple[int, ...]
    kernels: tuple[int, ...]


ALEXNET = Network((64, 192, 384, 256, 256), (1, 2, 5), (11, 5, 3, 3, 3))
EXTENDED = Network(
    (48, 64, 96, 128, 160, 224, 288, 352, 416, 352, 288, 224, 224),
    (5, 8, 13),
    (11, *[5] * 4, *[3] * 8),
)


def build_model(network: Network, classes: int, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for number, after in enumerate(network.channels, 1):
        kernel, stride = network.kernels[number - 1], 4 if number == 1 else 1
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2), activation()]
        if number in network.pools:
            layers.append(nn.MaxPool2d(2))
        before = after
    # Of 32 x 32 places, a stride of 4 and three pools leave one.
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before, classes))


def initialise(model: nn.Module, scheme: str) -> None:
    """Draws the weights as a scheme says: equation 13, equation 14, or N(0, sigma)."""
    if scheme == "default":
        return
    for module in model.modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        if scheme == "he":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif scheme == "xavier":
            nn.init.xavier_normal_(module.weight)
        else:
            nn.init.normal_(module.weight, std=float(scheme.removeprefix("normal-")))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
