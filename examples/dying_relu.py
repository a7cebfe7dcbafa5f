"""Eight ReLU layers of width 2 that learn |x|, or die: the paper's approximation experiment.

Hyper-parameter set A of Table 1: f(x) = |x|, 3,000 points of (-sqrt 3, sqrt 3), batches of 50,
mean squared error, PyTorch's default initialisation, Adam; the learning rate is not in the paper.
A constant output, which is all that a dead network has, has a loss of 0.25.

    gradscope fix examples/dying_relu.py --out dying-relu
    python examples/dying_relu.py --epochs 50
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gradscope.examples.fashion_mnist import Batches
from gradscope.examples.training import train_and_print

LAYERS = 8
WIDTH = 2
BATCH_SIZE = 50
TRAINING_POINTS = 3000
TEST_POINTS = 1000
LEARNING_RATE = 3e-3
BOUND = 3.0**0.5


def build_model() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(1, WIDTH), nn.ReLU()]
    for _ in range(LAYERS - 2):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1))


def points(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(count, 1, generator=generator) - 1) * BOUND


def build_data() -> Iterable[tuple[Tensor, Tensor]]:
    x = points(TRAINING_POINTS, seed=1)
    return Batches(x, x.abs(), BATCH_SIZE)


def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(output, batch[1])


def build_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)


@torch.no_grad()
def evaluate(model: nn.Module) -> dict[str, float]:
    x = points(TEST_POINTS, seed=2)
    return {"test loss": nn.functional.mse_loss(model(x), x.abs()).item()}


if __name__ == "__main__":
    train_and_print(build_model, build_data, loss, build_optimizer, evaluate)
