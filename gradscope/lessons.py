"""What to do about the mistakes that are made most often, told by what torch says of them.

An exception of torch names what it cannot do, in terms of what it was doing. Whoever has just
written their first subject file needs the other half: which line of theirs is meant, and what has
to stand there. Where nothing certain can be said, nothing is. The first pattern that fits counts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from gradscope.batches import Batch, tensors_in

__all__ = ["of_loss", "of_model"]

_FLOATS = "turn inputs into floats in build_data(), for instance with .float()"


def of_model(error: BaseException, model: nn.Module, batch: Batch) -> str:
    """One sentence for a model that failed on a batch; empty where none is known."""
    message = str(error)
    for pattern, lesson in _OF_MODEL:
        if found := re.search(pattern, message):
            return lesson(found, model, batch)
    return ""


def of_loss(error: BaseException, output: Any, batch: Batch) -> str:
    """One sentence for a loss that failed on an output and a batch; empty where none is known."""
    message = str(error)
    for pattern, lesson in _OF_LOSS:
        if found := re.search(pattern, message):
            return lesson(found, output, batch)
    return ""


# --- The model --------------------------------------------------------------------------------


def _other_type(found: re.Match[str], model: nn.Module, batch: Batch) -> str:
    given = found[1].lower()
    if given in ("long", "int", "short"):
        first = next(tensors_in(batch), None)
        others = list(tensors_in(batch))[1:]
        if first is not None and any(each.is_floating_point() for each in others):
            return (
                "A batch is (inputs, targets): its first entry holds integers and the next floats; "
                "are they the wrong way round?"
            )
        return f"Its inputs are integers: {_FLOATS}."
    if given == "byte":
        return f"Its inputs are bytes, as images often are: {_FLOATS} / 255."
    if given == "double":
        return f"Its inputs are float64, as NumPy makes them: {_FLOATS}."
    # Inputs are floats already: it is the weights that are of another type.
    return ""


def _channels(found: re.Match[str], model: nn.Module, batch: Batch) -> str:
    wanted = int(found[1])
    first = next(tensors_in(batch), None)
    if first is not None and first.ndim == 4 and first.shape[3] == wanted:
        return (
            "Its images have their channels last; torch wants them second: "
            "x.permute(0, 3, 1, 2) in build_data()."
        )
    return "Images are (batch, channels, height, width)."


def _widths(found: re.Match[str], model: nn.Module, batch: Batch) -> str:
    given, wanted = int(found[2]), int(found[3])
    lesson = f"A linear layer of {wanted} inputs was given {given}"
    tensors = list(tensors_in(batch))
    if any(each.ndim > 1 and each.shape[-1] == wanted for each in tensors[1:]):
        return f"{lesson}: a batch is (inputs, targets); are they the wrong way round?"
    if tensors and tensors[0].ndim > 2 and tensors[0][0].numel() == wanted:
        return f"{lesson}: flatten each sample first, with nn.Flatten() or x.flatten(1)."
    return f"{lesson}: the layers or the data are of another size than meant."


def _arguments(found: re.Match[str], model: nn.Module, batch: Batch) -> str:
    names = _named(model)
    if isinstance(batch, Mapping):
        return (
            f"A mapping is passed as model(**batch), so its keys have to be what forward() takes "
            f"({names}); for anything else write step(model, batch) in place of loss."
        )
    return (
        f"forward() takes {names}, and of a pair (inputs, targets) only the inputs are passed: "
        "make batches mappings with those names, or write step(model, batch) in place of loss."
    )


def _named(model: nn.Module) -> str:
    try:
        taken = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return "what its signature says"
    return ", ".join(name for name in taken if name not in ("args", "kwargs")) or "nothing by name"


def _devices(found: re.Match[str], given: Any, batch: Batch) -> str:
    return (
        "Model and data lie on two devices: --device D moves both, also what build_model() and "
        "build_data() have put elsewhere."
    )


def _said(text: str) -> Callable[[re.Match[str], Any, Batch], str]:
    return lambda found, given, batch: text


_OF_MODEL: tuple[tuple[str, Callable[[re.Match[str], nn.Module, Batch], str]], ...] = (
    (r"on the same device", _devices),
    (r"must have the same dtype, but got (\w+) and", _other_type),
    (r"Input type \(\w*\.?(\w+?)(?:Tensor)?\) and (?:weight|bias) type", _other_type),
    (r"expected .*\bhave (\d+) channels", _channels),
    (r"shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)", _widths),
    (
        r"must be Tensor, not numpy",
        _said("Its inputs are NumPy arrays: torch.from_numpy(x).float() in build_data()."),
    ),
    (r"forward\(\) missing \d+ required positional argument", _arguments),
    (r"forward\(\) got an unexpected keyword argument", _arguments),
    (
        r"Expected more than 1 value per channel when training",
        _said("Batch normalisation needs batches of two samples and more."),
    ),
    (
        r"index out of range in self",
        _said("A token or category is as large as its embedding table, whose rows count from 0."),
    ),
    (
        r"(?i)out of memory",
        _said("Give smaller batches, or --device cpu."),
    ),
)


# --- The loss ---------------------------------------------------------------------------------


def _not_a_tensor(found: re.Match[str], output: Any, batch: Batch) -> str:
    if found[1] == "target":
        taken = "batch['labels']" if isinstance(batch, Mapping) else "batch[1]"
        return f"loss(output, batch) is given the whole batch: take the targets from it: {taken}."
    if isinstance(output, Tensor):
        return "It is called as loss(output, batch), with the model's output first."
    return (
        f"The model returns a {type(output).__name__}: take the prediction out of it, such as "
        f"{'output.logits' if isinstance(output, Mapping) else 'output[0]'}."
    )


def _out_of_bounds(found: re.Match[str], output: Any, batch: Batch) -> str:
    classes = output.shape[1] if isinstance(output, Tensor) and output.ndim > 1 else None
    if classes is None:
        return "Classes count from 0."
    return (
        f"Classes count from 0, and the model has {classes} outputs: labels are 0 to {classes - 1}."
    )


def _sizes(found: re.Match[str], output: Any, batch: Batch) -> str:
    if isinstance(batch, Tensor):
        return (
            "The batch is one tensor, not a pair (inputs, targets): build_data() returns a list of "
            "such pairs or a DataLoader, not the pair itself."
        )
    return "Output and targets are of different numbers of samples."


_OF_LOSS: tuple[tuple[str, Callable[[re.Match[str], Any, Batch], str]], ...] = (
    (r"on the same device", _devices),
    (r"argument '(\w+)' \(position \d\) must be Tensor, not (?:tuple|list|dict)", _not_a_tensor),
    (
        r"(?:expected (?:target dtype|scalar type)|Expected floating point type for target).*Long"
        r"|nll_loss.*not implemented for '(?:Float|Double|Int)'",
        _said("cross_entropy takes the numbers of classes as integers: batch[1].long()."),
    ),
    (
        r"can't be cast to the desired output type Long|Found dtype Long but expected Float",
        _said("This loss compares floats: batch[1].float()."),
    ),
    (r"Target -?\d+ is out of bounds", _out_of_bounds),
    (r"Expected input batch_size \(\d+\) to match target batch_size", _sizes),
    (
        r"[Tt]arget size .* different (?:to|from) .*input size|must be the same as input size",
        _said("Give both one shape, for instance with output.squeeze(1)."),
    ),
)
