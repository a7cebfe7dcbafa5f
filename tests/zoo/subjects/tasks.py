"""How a model is trained on a batch, and cases of such trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gradscope.subject import Subject
from tests.zoo.subjects.case import Case
from tests.zoo.subjects.datasets import images
from tests.zoo.subjects.optimizers import BuildOptimizer, adam

__all__ = ["classify", "fresh_and_trained", "predict_tokens", "reconstruct", "regress"]

Step = Callable[[nn.Module, Any], Tensor]


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One class for each sample."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def predict_tokens(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One token for each position."""
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def regress(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def reconstruct(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[0].flatten(1))


def fresh_and_trained(
    architecture: str,
    build_model: Callable[[], nn.Module],
    optimizer: BuildOptimizer | None = None,
    *,
    step: Step = classify,
    data: Callable[[], Iterable[Any]] = images,
    trained: int = 200,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> tuple[Case, Case]:
    """A healthy network at its first step, and after some hundred of them."""

    def case(name: str, trained: int) -> Case:
        return Case(
            name,
            architecture,
            lambda: Subject(
                name=name,
                build_model=build_model,
                build_data=data,
                step=step,
                build_optimizer=optimizer or adam(),
                evaluate=evaluate,
            ),
            trained=trained,
        )

    return case(architecture, 0), case(f"{architecture}-trained", trained)
