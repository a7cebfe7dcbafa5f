"""Which axis of a tensor counts samples and which counts units, followed from call to call.

Shapes do not say it: (32, 64, 64) may be a sequence of features or a row of channels. Layers do:
a convolution puts its units into dimension 1, a linear layer into the last; and transposes and
reshapes between a layer and an activation move both. So every call of torch's is read: what a
layer makes is given a layout, and whatever is made of it inherits one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gradscope.batches import tensors_in
from gradscope.profile.axes import Layout, after, makes_units, same

__all__ = ["Layouts", "behind"]

# What they return has the shape of their input, and nothing of what is in it.
_CONSTANTS = (
    "new_",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
)


class Layouts:
    """The layouts of the tensors seen; a tensor that nobody holds any more is forgotten.

    ``used`` takes the identities of the parameters that calls are given.
    """

    def __init__(self, used: set[int]) -> None:
        self._used = used
        self._known = WeakTensorKeyDictionary()
        self._weights = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Layout:
        """Its layout; one without any axis where it is not known."""
        found: Layout | None = self._known.get(tensor)
        return found or Layout()

    def set(self, tensor: Tensor, layout: Layout) -> None:
        self._known[tensor] = layout

    def knows(self, tensor: Tensor) -> bool:
        return tensor in self._known

    def follow(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Gives what a call of the function ``name`` returned its layouts."""
        given = list(_few_tensors((args, kwargs)))
        self._used |= {id(each) for each in given if isinstance(each, nn.Parameter)}
        results = list(_few_tensors(out))
        if not results or name.startswith(_CONSTANTS):
            return
        source = self._source(given)
        if source is None and not makes_units(name):
            if given and all(map(self.is_weight, given)):
                for result in results:
                    self._weights[result] = True
            return
        rest = (kwargs["dim"],) if "dim" in kwargs else (*args[1:], *kwargs.values())
        passed = self._passed(name, given)
        for result in results:
            if source is result:
                layout = self.of(source)
            elif source is None:
                layout = after(name, Layout(), tuple(result.shape), tuple(result.shape), rest)
            else:
                shapes = tuple(source.shape), tuple(result.shape)
                layout = after(name, self.of(source), *shapes, rest)
            real = result.is_floating_point() or result.is_complex()
            self.set(result, replace(layout, passed=passed if real else 0))

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or made of parameters alone."""
        return isinstance(tensor, nn.Parameter) or tensor in self._weights

    def inherit(self, inputs: Any, output: Tensor) -> None:
        """For what came out of a call that could not be read, such as a custom Function."""
        given = list(_few_tensors(inputs))
        source = self._source(given)
        if source is not None and source is not output:
            layout = same(self.of(source), tuple(source.shape), tuple(output.shape), ())
            self.set(output, replace(layout, passed=self._passed("", given)))

    def _passed(self, name: str, given: list[Tensor]) -> int:
        """How many sites lie behind a result; none where no gradient could go back."""
        if name in ("detach", "detach_", "data"):
            return 0
        return max((self.of(each).passed for each in given), default=0)

    def _source(self, given: list[Tensor]) -> Tensor | None:
        """The first argument with the axis of samples, else the first with any layout."""
        first = None
        for tensor in given:
            found = self._known.get(tensor)
            if found is not None:
                if found.samples is not None:
                    return tensor
                first = first if first is not None else tensor
        return first


def _few_tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, not looking into what is not a plain container."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _few_tensors(value)
    elif isinstance(values, dict):
        yield from tensors_in(values)


def behind(y: Tensor, layouts: Layouts) -> Tensor:
    """What an operator has computed, where it returned a view of it that fits the shapes.

    A linear layer does so for inputs of three axes. Written to in place, the view would leave the
    graph with its hooks; what it is a view of stays.
    """
    base = y._base if y._is_view() and not y.is_inference() else None
    if base is None or base.grad_fn is None or base.numel() != y.numel() or layouts.knows(base):
        return y
    return base
