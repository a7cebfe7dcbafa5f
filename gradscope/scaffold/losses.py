"""A loss that fits what a model returns: a guess, said with how sure it is.

Shapes tell what can be computed and not what is meant: ten numbers for each sample are ten classes
more often than ten measurements. The last operation tells more where it is a sigmoid or a softmax.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from gradscope.batches import Batch, call_model, outermost, own_loss
from gradscope.checked import call
from gradscope.profile.preserve import preserved
from gradscope.scaffold.made_up import shape
from gradscope.scaffold.spelling import literal

__all__ = ["Loss", "choose", "output_of"]

_SAME_NUMBERS = (
    "Alias",
    "Clone",
    "Permute",
    "Squeeze",
    "Transpose",
    "UnsafeView",
    "Unsqueeze",
    "View",
)
"""Operations that only arrange numbers anew, as their nodes in the graph begin."""

_NAMED_FIRST = ("logits", "prediction", "predictions", "output", "out")


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss.

    Attributes:
        code: the expression that computes it, of ``output`` and ``targets``; None where nothing
            could be said.
        targets: the expression that makes up targets; None where the model computes its own loss.
        why: what it was told by.
        sure: ``known``, ``likely``, or ``a guess``.
        short: what it is called.
        classes: whether ``output.argmax(dim=1)`` is compared with the targets.
    """

    code: str | None
    targets: str | None
    why: str
    sure: str
    short: str
    classes: bool = False


def output_of(model: nn.Module, batch: Batch) -> Any:
    """What the model returns in training, with its graph; the model is left as it is.

    Raises:
        ModelError: it failed.
    """
    with preserved(model, seed=0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()
        return call(call_model, model, batch, where=type(model).__name__)


def choose(output: Any, given: Tensor) -> Loss:
    """The loss for a model that returned ``output`` for a batch whose first tensor is ``given``."""
    if own_loss(output) is not None:
        code = _where_the_loss_is(output)
        return Loss(code, None, "the model computes its loss itself", "known", "the model's own")
    name, tensor = _prediction(output)
    if tensor is None:
        why = f"the model returned a {type(output).__name__} without a real tensor of samples"
        return Loss(None, None, why, "missing", "none")
    return _by_shape(name, tensor, given)


def _by_shape(name: str, output: Tensor, given: Tensor) -> Loss:
    extents = tuple(output.shape)
    said = f"the output is {'x'.join(map(str, extents))}"
    last = _last_operation(output)
    of_tokens = not given.is_floating_point() and given.ndim == 2
    if extents == tuple(given.shape) and given.is_floating_point():
        return _distance(name, extents, f"{said}, as the input: is it to be given again?")
    if last.startswith("Sigmoid"):
        return Loss(
            f"F.binary_cross_entropy({name}, targets)",
            f"torch.randint(2, {shape(extents)}).float()",
            f"{said}, of a sigmoid: chances of yes, with targets 0.0 and 1.0",
            "likely",
            "binary_cross_entropy",
        )
    if len(extents) == 1 or (len(extents) == 2 and extents[1] == 1):
        return _distance(
            name,
            extents,
            f"{said}, one number for each sample: a regression? For yes or no it is "
            "F.binary_cross_entropy_with_logits, with targets 0.0 and 1.0",
        )
    if len(extents) == 2:
        classes = extents[1]
        return _classes(name, last, classes, extents[:1], f"{said}: {classes} classes")
    if of_tokens and extents[:2] == tuple(given.shape):
        said = f"{said}: one of {extents[2]} for each token"
        return _classes(name, last, extents[2], extents[:2], said, (".flatten(0, 1)", ".flatten()"))
    if len(extents) >= 4 and given.ndim == len(extents) and extents[2:] == tuple(given.shape[2:]):
        if extents[1] == 1:
            return Loss(
                f"F.binary_cross_entropy_with_logits({name}, targets)",
                f"torch.randint(2, {shape(extents)}).float()",
                f"{said}, one number for each pixel: a mask, with targets 0.0 and 1.0?",
                "a guess",
                "binary_cross_entropy_with_logits",
            )
        per_pixel = (extents[0], *extents[2:])
        said = f"{said}: {extents[1]} classes for each pixel"
        return _classes(name, last, extents[1], per_pixel, said)
    return _distance(name, extents, f"{said}, which says little: put your own loss here")


def _classes(
    name: str,
    last: str,
    classes: int,
    targets: tuple[int, ...],
    why: str,
    flat: tuple[str, str] = ("", ""),
) -> Loss:
    function, argument, sure = "cross_entropy", f"{name}{flat[0]}", "a guess"
    if last.startswith("LogSoftmax"):
        function, sure, why = "nll_loss", "likely", f"{why}, after a log_softmax"
    elif last.startswith("Softmax"):
        function, sure = "nll_loss", "likely"
        argument = f"{argument}.log()"
        why = (
            f"{why}, after a softmax. Without it cross_entropy takes the output as it is, and "
            "gradients are sound where a chance is next to none"
        )
    return Loss(
        f"F.{function}({argument}, targets{flat[1]})",
        f"torch.randint({classes}, {shape(targets)})",
        f"{why}; targets are whole numbers from 0 to {classes - 1}",
        sure,
        f"{function} over {classes} classes",
        classes=name == "output" and len(targets) == 1,
    )


def _distance(name: str, extents: tuple[int, ...], why: str) -> Loss:
    return Loss(
        f"F.mse_loss({name}, targets)",
        f"torch.randn{shape(extents)}" if len(extents) > 1 else f"torch.randn({extents[0]})",
        why,
        "a guess",
        "mse_loss",
    )


def _last_operation(tensor: Tensor) -> str:
    """The node of the graph that computed the numbers of a tensor, empty where there is none."""
    node: Any = tensor.grad_fn
    while node is not None and node.name().startswith(_SAME_NUMBERS):
        node = node.next_functions[0][0] if node.next_functions else None
    return "" if node is None else str(node.name())


def _where_the_loss_is(output: Any) -> str:
    """The expression that finds :func:`~gradscope.batches.own_loss` in an output."""
    if isinstance(output, Tensor):
        return "output"
    if isinstance(getattr(output, "loss", None), Tensor):
        return "output.loss"
    if isinstance(output, Mapping):
        return 'output["loss"]'
    first = own_loss(output)
    return next(f"output[{index}]" for index, each in enumerate(output) if each is first)


def _prediction(output: Any) -> tuple[str, Tensor | None]:
    """The expression that finds the tensor a loss is made of, and that tensor."""
    usable = [each for each in outermost(output) if each.is_floating_point() and each.ndim]
    for name, value in _parts(output):
        if any(value is each for each in usable):
            return name, value
    return "output", None


def _parts(output: Any) -> list[tuple[str, Any]]:
    """What lies in an output, with expressions that find it; likely predictions first."""
    if isinstance(output, Tensor):
        return [("output", output)]
    if isinstance(output, Mapping):
        keys = sorted(output, key=lambda key: key not in _NAMED_FIRST)
        return [
            (f"output.{key}" if _has(output, key) else f"output[{_key(key)}]", output[key])
            for key in keys
        ]
    if isinstance(output, (tuple, list)):
        return [(f"output[{index}]", each) for index, each in enumerate(output)]
    if is_dataclass(output) and not isinstance(output, type):
        names = sorted((each.name for each in fields(output)), key=lambda n: n not in _NAMED_FIRST)
        return [(f"output.{name}", getattr(output, name)) for name in names]
    return []


def _has(output: Any, key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and hasattr(output, key)


def _key(key: Any) -> str:
    return literal(key) if isinstance(key, str) else repr(key)
