"""What a model's ``forward`` must be given, and what made-up tensors can stand for it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping

from torch import nn

from gradscope.errors import ModelError
from gradscope.inputs.layers import Filling, Input, candidates

__all__ = ["MadeUp", "arguments"]

MadeUp = Input | Mapping[str, Input]
"""One input, passed by position; or several, passed by their names."""

_MOST = 250
"""How many guesses are made. Those that are wrong mostly fail at their first layer."""

_IMAGES = {"image", "images", "img", "imgs", "pixel_values"}
_TOKENS = {"ids", "idx", "input_ids", "text", "token_ids", "tokens"}
_ALIKE = {
    "anchor", "decoder_input_ids", "input1", "input2", "inputs1", "inputs2", "key", "left",
    "memory", "negative", "other", "positive", "query", "right", "src", "target", "tgt", "trg",
    "value", "x1", "x2",
}  # fmt: skip
_MASKS = {"attention_mask", "decoder_attention_mask"}
_SEGMENTS = {"segment_ids", "token_type_ids"}
_POSITIONS = {"position_ids", "positions"}
_LENGTHS = {"input_lengths", "lengths", "seq_lengths", "seq_lens"}
_TIMES = {"t", "time_steps", "timestep", "timesteps"}

_DIFFUSION_STEPS = 1000
"""Ho et al. 2020, Denoising Diffusion Probabilistic Models, section 4."""


def arguments(model: nn.Module) -> Iterator[MadeUp]:
    """What may be passed to the model, likely and small first.

    Raises:
        ModelError: ``forward`` takes nothing, or needs something that cannot be made up.
    """
    names = _required(model)
    if len(names) == 1:
        return itertools.islice(candidates(model), _MOST)
    return itertools.islice(_by_name(model, names), _MOST)


def _by_name(model: nn.Module, names: list[str]) -> Iterator[Mapping[str, Input]]:
    known = list(candidates(model))
    first, *others = names
    choices = {name: _of_its_kind(name, known) for name in others}
    unknown = [
        name for name in others if not choices[name] and _companion(name, Input((1,))) is None
    ]
    if unknown:
        raise ModelError(
            f"{type(model).__name__}.forward() needs {', '.join(map(repr, names))}, and no "
            f"{unknown[0]!r} can be made up; give batches with --data FILE.py:NAME (from Python: "
            f"batches=), as mappings with the keys {', '.join(names)}."
        )
    for leading in _of_its_kind(first, known) or known:
        companions = [
            choices[name] or [each for each in (_companion(name, leading),) if each is not None]
            for name in others
        ]
        for chosen in itertools.product(*companions):
            yield dict(zip(names, (leading, *chosen), strict=True))


def _of_its_kind(name: str, known: list[Input]) -> list[Input]:
    """The candidates that an argument's name asks for; none where the name says nothing."""
    if name in _TOKENS:
        return [each for each in known if each.filling is Filling.WHOLE]
    if name in _IMAGES:
        return [each for each in known if each.filling is Filling.NORMAL and len(each.shape) == 3]
    return []


def _companion(name: str, leading: Input) -> Input | None:
    """What goes with the first argument under that name; None where the name is not known."""
    sequence = leading.shape[:1]
    if name in _ALIKE:
        return leading
    if name in _MASKS:
        return Input(sequence, Filling.ONES)
    if name in _SEGMENTS:
        return Input(sequence, Filling.WHOLE, 1)
    if name in _POSITIONS:
        return Input(sequence, Filling.POSITIONS)
    if name in _LENGTHS:
        return Input((), Filling.LENGTH, *sequence)
    if name in _TIMES:
        return Input((), Filling.WHOLE, _DIFFUSION_STEPS)
    return None


def _required(model: nn.Module) -> list[str]:
    """The arguments without a default; the first of all where none is required."""
    parameters = _parameters(model)
    if parameters is None:
        return [""]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        each
        for each in parameters
        if each.default is inspect.Parameter.empty and each.kind not in variadic
    ]
    if not parameters:
        raise ModelError(
            f"{type(model).__name__}.forward() takes no input, so none can be made up; give a "
            "step(model, batch) in a subject file."
        )
    if len(required) > 1 and required[0].kind is inspect.Parameter.POSITIONAL_ONLY:
        raise ModelError(
            f"{type(model).__name__}.forward() needs {len(required)} arguments by position; give "
            "a subject file with build_data() and step(model, batch)."
        )
    return [each.name for each in required or parameters[:1]]


def _parameters(model: nn.Module) -> list[inspect.Parameter] | None:
    """Those of ``forward``, also where the model is wrapped; None where they are not known."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return None
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if parameters and all(each.kind in variadic for each in parameters):
        # torch.compile and DataParallel pass everything on.
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        return _parameters(inner) if isinstance(inner, nn.Module) else None
    return parameters
