"""Leaves a model as it was found, whatever happened to it in between."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gradscope.profile.sharding import bare, local
from gradscope.randomness import preserved_randomness

__all__ = ["preserved", "preserved_weights", "same_bits"]


@contextmanager
def preserved(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Puts back what passing batches through a model changes.

    That is: the global random state, each module's train or eval mode, each parameter's
    ``requires_grad`` and ``.grad`` (the same tensor object, never written to), each buffer (the
    same tensor object with the same values; new ones are taken out), what modules keep in plain
    attributes (the same objects), and weights that a forward pass may write to: of embeddings that
    renormalise themselves, and frozen ones that follow others. Inside, gradients start as None and
    the random generators are seeded with ``seed`` where one is given.
    """
    modes = [(module, module.training) for module in model.modules()]
    gradients = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()
    ]
    tables = [_noted_buffers(module) for module in model.modules()]
    # Those of wrappers such as DDP belong to their machinery.
    attributes = [_noted_attributes(module) for module in bare(model).modules()]
    weights = [
        _noted(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None
    ]
    weights += [_noted(local(parameter.detach())) for parameter in _may_be_written(model)]
    with preserved_randomness(seed):
        try:
            for parameter, _, _ in gradients:
                parameter.grad = None
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            for restore in (*tables, *attributes, *weights):
                restore()
            for module, _ in modes:
                # FSDP2 keeps whole weights from a forward that no backward has followed.
                reshard = getattr(module, "reshard", None)
                if callable(reshard):
                    reshard()


@contextmanager
def preserved_weights(model: nn.Module) -> Iterator[None]:
    """Puts back what training changes: the values of parameters, where they have changed."""
    restore = _together([_noted(local(each.detach())) for each in model.parameters()])
    try:
        yield
    finally:
        restore()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits: NaN equals NaN, 0 is not -0."""
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.detach().reshape(-1).view(torch.uint8), other.detach().reshape(-1).view(torch.uint8)
        )
    )


def _noted_buffers(module: nn.Module) -> Callable[[], None]:
    """Notes a module's buffers; returns what puts them back."""
    if isinstance(module, torch.jit.ScriptModule):
        # Its table is its own, and no forward can change it.
        return _together([_noted(each) for _, each in module.named_buffers(recurse=False)])
    table = dict(module._buffers)
    transient = set(module._non_persistent_buffers_set)
    restore_values = _together([_noted(each) for each in table.values() if each is not None])

    def restore() -> None:
        module._buffers.clear()
        module._buffers.update(table)
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(transient)
        restore_values()

    return restore


def _noted_attributes(module: nn.Module) -> Callable[[], None]:
    """Notes what a module keeps in plain attributes; returns what puts that back."""
    if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "reshard"):
        return lambda: None
    attributes = dict(vars(module))
    contents = [(value, copy.copy(value)) for value in attributes.values() if _fills(value)]
    held = [value for value in attributes.values() if isinstance(value, Tensor)]
    for container, _ in contents:
        values = container.values() if isinstance(container, dict) else container
        held += [value for value in values if isinstance(value, Tensor)]
    # Parameters and buffers have ways of their own.
    own = {id(each) for each in (*module._parameters.values(), *module._buffers.values())}
    restore_values = _together([_noted(each) for each in held if id(each) not in own])

    def restore() -> None:
        now = vars(module)
        for name in [name for name in now if name not in attributes]:
            del now[name]
        now.update(attributes)
        for container, content in contents:
            container.clear()
            getattr(container, "update" if isinstance(container, (dict, set)) else "extend")(
                content
            )
        restore_values()

    return restore


def _may_be_written(model: nn.Module) -> list[nn.Parameter]:
    """Frozen parameters, which a forward may average the trained ones into (a momentum encoder).

    None where they are more than those: a frozen base that adapters are trained on is no average.
    """
    frozen = [each for each in model.parameters() if not each.requires_grad]
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return frozen if sum(each.numel() for each in frozen) <= trained else []


def _fills(value: object) -> bool:
    """Whether it is a plain container that a forward pass may put something into.

    Submodules and hooks are kept in such containers too.
    """
    return type(value) in (list, dict, set, deque, OrderedDict, defaultdict)


def _together(restores: list[Callable[[], None]]) -> Callable[[], None]:
    """One function that calls them all."""

    def restore() -> None:
        for each in restores:
            each()

    return restore


def _noted(tensor: Tensor) -> Callable[[], None]:
    """Notes a tensor's values; returns what writes them back where they have changed.

    Unchanged ones are not written to: a graph that is still to be passed backward may need them.
    """
    if torch.nn.parameter.is_lazy(tensor):
        return lambda: None
    value = tensor.detach().clone()

    def restore() -> None:
        if not same_bits(tensor, value):
            # By way of .data no graph that has saved the tensor takes it for another.
            tensor.data.copy_(value)

    return restore
