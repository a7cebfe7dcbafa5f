"""Which modules an optimizer is said to train."""

from __future__ import annotations

import torch
from torch import nn

from gradscope.running.live import parameters_of
from gradscope.running.owners import models_of


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)


def owners(trained: list[nn.Module], called: list[nn.Module], alive: list[nn.Module]) -> list[str]:
    parameters = [each for module in trained for each in module.parameters()]
    optimizer = torch.optim.SGD(parameters)
    return [type(each).__name__ for each in models_of(parameters_of(optimizer), called, alive)]


def test_the_outermost_that_was_called_owns_what_is_trained() -> None:
    whole = Whole()
    wrapper, modules = nn.Sequential(whole), [whole, whole.body, whole.head]
    assert owners([whole], [whole.body, whole.head, whole], [*modules, wrapper]) == ["Whole"]
    # Frozen parts belong to the model, too.
    assert owners([whole.head], [whole.body, whole.head, whole], modules) == ["Whole"]


def test_a_model_that_is_not_called_owns_its_parts() -> None:
    whole = Whole()
    other, wrapper = Whole(), nn.Sequential(whole)
    alive = [whole.body, wrapper, other, whole, whole.head]
    assert owners([whole], [whole.body, whole.head], alive) == ["Whole"]
    assert owners([whole], [], alive) == ["Whole"]


def test_several_that_nothing_holds_together_are_all_owners() -> None:
    first, second, bystander = nn.Linear(1, 1), nn.Bilinear(1, 1, 1), nn.Linear(1, 1)
    modules: list[nn.Module] = [first, bystander, second]
    assert owners([first, second], modules, modules) == ["Linear", "Bilinear"]


def test_tensors_of_no_module_have_no_owner() -> None:
    optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)])
    model = nn.Linear(1, 1)
    assert models_of(parameters_of(optimizer), [model], [model]) == []
