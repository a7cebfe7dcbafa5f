"""A training as the published tools see it: through hooks on modules, and the parameters.

They hook leaf modules and nothing else: functional calls (``F.relu``) remain unseen, a module
without a call of its own (the output projection of ``nn.MultiheadAttention``) counts as silent,
and of a module that is called several times in a step only one call remains. All of that is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradscope.batches import tensors_in
from gradscope.randomness import preserved_randomness
from gradscope.subject import Subject
from tests.zoo.published.measures import (
    SLOPED,
    Gradient,
    Signal,
    Weight,
    effective_rank,
    gradient_of,
    signal_of,
    weight_of,
)

__all__ = ["FIRST_STEPS", "Layer", "Parameter", "Trace", "record"]

RANK_EVERY = 50
"""Steps between two ranks: torchmortem's sampling ``balanced``, its default."""

FIRST_STEPS = 10
"""Steps whose gradients are looked at for their spread: SageMaker's PoorWeightInitialization,
``steps``."""

INPUTS_OF = ("ReLU", *SLOPED)
"""Modules whose inputs SageMaker's rules ask for (``relu_input``, ``tanh_input``, …)."""


@dataclass(frozen=True)
class Layer:
    """A leaf module: one without children. Series have an entry for each step.

    Attributes:
        name: the module's.
        kind: class of ``torch.nn`` that it is, else its own class.
        weight: name of the parameter it calls ``weight``; None without one.
        parametric: it has parameters of its own.
        trainable: and some of them are trained.
        inputs: after the call, so that an in-place ReLU has overwritten its own; only INPUTS_OF.
        outputs: of the last call; None where there was none, or its output is no single tensor.
        gradients: norm of the loss's gradient by the output of the first call; 0.0 where none.
        ranks: effective rank of the output, at every RANK_EVERY-th step only; 0.0 where none.
    """

    name: str
    kind: str
    weight: str | None = None
    parametric: bool = False
    trainable: bool = False
    inputs: tuple[Signal | None, ...] = ()
    outputs: tuple[Signal | None, ...] = ()
    gradients: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """A parameter. Series have an entry for each step.

    Attributes:
        name: in the model.
        embedding: it is the table of an ``nn.Embedding`` or ``nn.EmbeddingBag``.
        trainable: it requires a gradient.
        size: number of its elements.
        gradients: None where there was no gradient.
        weights: values before and after the update.
    """

    name: str
    embedding: bool
    trainable: bool
    size: int
    gradients: tuple[Gradient | None, ...]
    weights: tuple[Weight, ...]

    @property
    def is_bias(self) -> bool:
        return "bias" in self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Trace:
    """What a training looked like.

    Attributes:
        losses: one for each step.
        accuracies: share of right classes in each step; None where the task has no classes.
        passes: which pass through the data each step belongs to, from 0.
        layers: leaf modules in the order in which the model registers them.
        parameters: in the order in which the model registers them.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float | None, ...]
    passes: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]

    @property
    def steps(self) -> int:
        return len(self.losses)

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)


def record(subject: Subject, steps: int, model: nn.Module | None = None, seed: int = 0) -> Trace:
    """Trains a model for some steps under the tools' hooks.

    Args:
        subject: gives batches, the step and the optimizer; SGD at 0.01 where it has none.
        steps: to take.
        model: is trained itself, not a copy; the subject's own under ``seed`` without one.
        seed: of the model, of the order of batches and of what the model draws.

    Raises:
        Exception: whatever the model, its data or its optimizer raises.
    """
    with preserved_randomness(seed), torch.enable_grad():
        if model is None:
            model = subject.build_model()
        if not model.training:
            model.train()
        optimizer = (subject.build_optimizer or _sgd)(model.parameters())
        losses, accuracies, passes = [], [], []
        with _Recorder(model) as recorder:
            for number, batch in itertools.islice(_batches(subject), steps):
                optimizer.zero_grad()
                loss = subject.step(model, batch)
                loss.backward()
                recorder.before_update()
                optimizer.step()
                recorder.after_update()
                losses.append(float(loss.detach()))
                accuracies.append(_accuracy(recorder.output, batch))
                passes.append(number)
    layers, parameters = recorder.layers(), recorder.parameters()
    return Trace(tuple(losses), tuple(accuracies), tuple(passes), layers, parameters)


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def _batches(subject: Subject) -> Iterator[tuple[int, Any]]:
    """The subject's batches over and over, each with the number of its pass."""
    for number in itertools.count():
        empty = True
        for batch in subject.data():
            empty = False
            yield number, batch
        if empty:
            raise ValueError(f"the data of {subject.name} holds no batch")


def _accuracy(output: Any, batch: Any) -> float | None:
    """Share of targets that are the largest of their outputs, classes last or at dimension 1."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        return None
    targets = batch[1]
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor) or output.ndim < 2:
        return None
    if targets.is_floating_point() or targets.is_complex():
        return None
    if output.shape[:-1] == targets.shape:
        chosen = output.argmax(dim=-1)
    elif output.shape[:1] + output.shape[2:] == targets.shape:
        chosen = output.argmax(dim=1)
    else:
        return None
    return float((chosen == targets).float().mean())


def _kind(module: nn.Module) -> str:
    for ancestor in type(module).__mro__:
        if ancestor.__module__.startswith("torch.nn.modules") and ancestor is not nn.Module:
            return ancestor.__name__
    return type(module).__name__


class _Recorder:
    """Hooks on the leaf modules of a model, and what has been seen so far."""

    def __init__(self, model: nn.Module) -> None:
        self.output: Any = None
        self._model = model
        self._named = dict(model.named_parameters())
        self._leaves = {
            name: module
            for name, module in model.named_modules()
            if next(module.children(), None) is None
        }
        self._handles: list[RemovableHandle] = []
        self._step = 0
        self._before: dict[str, Tensor] = {}
        self._inputs: dict[tuple[str, int], Signal | None] = {}
        self._outputs: dict[tuple[str, int], Signal | None] = {}
        self._norms: dict[tuple[str, int], float] = {}
        self._ranks: dict[tuple[str, int], float] = {}
        self._gradients: dict[str, list[Gradient | None]] = {name: [] for name in self._named}
        self._weights: dict[str, list[Weight]] = {name: [] for name in self._named}

    def __enter__(self) -> _Recorder:
        for name, module in self._leaves.items():
            self._handles.append(module.register_forward_hook(self._watching(name, module)))
        self._handles.append(self._model.register_forward_hook(self._keep_output))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def before_update(self) -> None:
        for name, parameter in self._named.items():
            self._before[name] = parameter.detach().clone()
            spread = self._step < FIRST_STEPS
            given = parameter.grad
            self._gradients[name].append(
                None if given is None else gradient_of(given, spread=spread)
            )

    def after_update(self) -> None:
        for name, parameter in self._named.items():
            self._weights[name].append(weight_of(self._before[name], parameter))
        self._step += 1

    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layer(name, module) for name, module in self._leaves.items())

    def parameters(self) -> tuple[Parameter, ...]:
        tables = {
            id(module.weight)
            for module in self._leaves.values()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        }
        return tuple(
            Parameter(
                name=name,
                embedding=id(parameter) in tables,
                trainable=parameter.requires_grad,
                size=parameter.numel(),
                gradients=tuple(self._gradients[name]),
                weights=tuple(self._weights[name]),
            )
            for name, parameter in self._named.items()
        )

    def _layer(self, name: str, module: nn.Module) -> Layer:
        steps = range(self._step)
        names = {id(parameter): name for name, parameter in self._named.items()}
        own = list(module.parameters(recurse=False))
        return Layer(
            name=name,
            kind=_kind(module),
            weight=names.get(id(getattr(module, "weight", None))),
            parametric=bool(own),
            trainable=any(parameter.requires_grad for parameter in own),
            inputs=tuple(self._inputs.get((name, step)) for step in steps),
            outputs=tuple(self._outputs.get((name, step)) for step in steps),
            gradients=tuple(self._norms.get((name, step), 0.0) for step in steps),
            ranks=tuple(self._ranks.get((name, step), 0.0) for step in steps[::RANK_EVERY]),
        )

    def _watching(self, name: str, module: nn.Module) -> Callable[..., None]:
        kind = _kind(module)
        trainable = any(parameter.requires_grad for parameter in module.parameters(recurse=False))

        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            key = name, self._step
            if isinstance(output, Tensor):
                self._outputs[key] = signal_of(output, kind)
                if trainable and self._step % RANK_EVERY == 0:
                    self._ranks[key] = effective_rank(output)
            given = next(tensors_in(arguments), None)
            if kind in INPUTS_OF and given is not None:
                self._inputs[key] = signal_of(given, kind)
            first = next(tensors_in(output), None)
            if trainable and first is not None and first.requires_grad:
                # On the tensor, not on the module: a full backward hook of a module raises when
                # the next module writes in place, and what counts here is the rule.
                first.register_hook(partial(self._keep_norm, key))

        return hook

    def _keep_norm(self, key: tuple[str, int], gradient: Tensor) -> None:
        self._norms[key] = float(torch.linalg.vector_norm(gradient.detach()))

    def _keep_output(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.output = output
