"""Which inputs a model may take, guessed from its layers.

Nothing is known until a guess has been passed: :mod:`gradscope.inputs.probe` does that. Guesses are
made for every layer in the order they were registered in, because the first registered need not be
the first that runs; small ones come first, because they are cheap to pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Generator, Tensor, nn

__all__ = ["Filling", "Input", "candidates"]

_SIZES = (28, 32, 64, 84, 96, 128, 160, 192, 224, 256, 299, 384)
"""Pixels of a square image: those of common data sets and architectures."""

_GREY = 28
"""MNIST's size comes first for one channel, last for others."""

_CUBES = ((8, 32, 32), (16, 32, 32), (16, 64, 64), (16, 112, 112), (64, 64, 64))
_SIGNALS = (64, 128, 256, 512, 1024, 4096, 16000)
_TRANSPOSED = (1, 4, 7, 8, 16, 32)
_LENGTHS = (16, 8, 32, 64, 128, 256, 4, 512, 1)
_MOST_LENGTHS_HINTED = 8
_LONGEST_HINT = 4096

_TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_IMAGE_NORMS = (nn.BatchNorm2d, nn.InstanceNorm2d)
_CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


class Filling(StrEnum):
    """What a made-up tensor holds."""

    NORMAL = "standard normal numbers"
    WHOLE = "whole numbers"
    ONES = "ones"
    POSITIONS = "positions"
    LENGTH = "lengths"


@dataclass(frozen=True)
class Input:
    """One made-up tensor.

    Attributes:
        shape: of one sample.
        filling: what it holds.
        below: whole numbers are drawn from 0 to one less than this; lengths are all this.
        samples_axis: which dimension of a batch counts the samples.
    """

    shape: tuple[int, ...]
    filling: Filling = Filling.NORMAL
    below: int = 1
    samples_axis: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def draw(self, samples: int, generator: Generator) -> Tensor:
        """A batch of ``samples``, float32 or int64, on the CPU wherever torch makes tensors."""
        shape = (*self.shape[: self.samples_axis], samples, *self.shape[self.samples_axis :])
        match self.filling:
            case Filling.NORMAL:
                return torch.randn(shape, generator=generator, device="cpu")
            case Filling.WHOLE:
                return torch.randint(self.below, shape, generator=generator, device="cpu")
            case Filling.ONES:
                return torch.ones(shape, dtype=torch.long, device="cpu")
            case Filling.POSITIONS:
                return torch.arange(shape[-1], device="cpu").expand(shape)
            case Filling.LENGTH:
                return torch.full(shape, self.below, device="cpu")


def candidates(model: nn.Module) -> Iterator[Input]:
    """Inputs that the model may take, likely and small ones first, none of them twice."""
    sight = _Sight(model)
    seen: set[Input] = set()
    # Of several tables the largest that passes holds the tokens: a table of positions may be
    # registered before it, and be smaller.
    tables = iter(sorted(_tables(model), key=lambda table: -table.num_embeddings))
    for module in model.modules():
        layer = next(tables) if isinstance(module, _TABLES) else module
        for candidate in sight.taken_by(layer):
            if candidate not in seen:
                seen.add(candidate)
                yield candidate
    # Images that are cut up before any layer sees them, as some vision transformers do.
    for channels in (3, 1):
        yield from (each for each in sight.images(channels) if each not in seen)


class _Sight:
    """What the layers of one model show about its inputs."""

    def __init__(self, model: nn.Module) -> None:
        layers = list(model.modules())
        # A matrix would pass there too, as one sequence without a batch.
        self._sequential = any(
            isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) for layer in layers
        )
        self._lengths = _merged(_LENGTHS, _hinted_lengths(model))
        self._sizes = sorted({*_SIZES, *_hinted_sizes(model)})

    def taken_by(self, layer: nn.Module) -> Iterable[Input]:
        """What the model takes if this layer is the first to run."""
        match layer:
            case nn.Conv2d():
                return self.images(layer.in_channels)
            case nn.Conv1d():
                return [Input((layer.in_channels, length)) for length in _SIGNALS]
            case nn.Conv3d():
                return [Input((layer.in_channels, *extents)) for extents in _CUBES]
            case nn.Embedding() | nn.EmbeddingBag():
                return [
                    Input(shape, Filling.WHOLE, layer.num_embeddings)
                    for shape in (*((length,) for length in self._lengths), ())
                ]
            case nn.Linear():
                return self._features((layer.in_features,))
            case nn.RNNBase():
                return self._sequences(layer.input_size, layer.batch_first)
            case nn.MultiheadAttention():
                return self._sequences(layer.embed_dim, layer.batch_first)
            case nn.LayerNorm() | nn.RMSNorm():
                return self._features(tuple(layer.normalized_shape))
            case nn.BatchNorm1d() | nn.InstanceNorm1d():
                signals = [Input((layer.num_features, length)) for length in _SIGNALS]
                return [Input((layer.num_features,)), *signals]
            case nn.BatchNorm3d() | nn.InstanceNorm3d():
                return [Input((layer.num_features, *extents)) for extents in _CUBES]
            case nn.GroupNorm():
                return self.images(layer.num_channels)
        if isinstance(layer, _IMAGE_NORMS):
            return self.images(layer.num_features)
        if isinstance(layer, _CELLS):
            return [Input((layer.input_size,))]
        if isinstance(layer, _TRANSPOSED_CONVOLUTIONS):
            rank = len(layer.kernel_size)
            return [Input((layer.in_channels, *[extent] * rank)) for extent in _TRANSPOSED]
        return []

    def images(self, channels: int) -> Iterator[Input]:
        """Square images, small ones first."""
        for size in sorted(self._sizes, key=lambda size: (size == _GREY and channels > 1, size)):
            yield Input((channels, size, size))

    def _features(self, shape: tuple[int, ...]) -> list[Input]:
        single = [Input(shape)]
        sequences = [Input((length, *shape)) for length in self._lengths]
        return sequences + single if self._sequential else single + sequences

    def _sequences(self, features: int, batch_first: bool) -> list[Input]:
        front = [Input((length, features)) for length in self._lengths]
        if batch_first:
            return front
        behind = [Input((length, features), samples_axis=1) for length in self._lengths]
        return behind + front


def _tables(model: nn.Module) -> list[nn.Embedding | nn.EmbeddingBag]:
    return [layer for layer in model.modules() if isinstance(layer, _TABLES)]


def _merged(first: Iterable[int], more: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys((*first, *more)))


def _hinted_lengths(model: nn.Module) -> list[int]:
    """Lengths that tables of positions, and layers over whole sequences, ask for."""
    widths = {layer.embedding_dim for layer in model.modules() if isinstance(layer, nn.Embedding)}
    hints: dict[int, None] = {}
    for name, parameter in model.named_parameters():
        if "pos" in name.lower() and parameter.ndim >= 2:
            # With a class token there is one position more than there are entries.
            hints |= dict.fromkeys((parameter.shape[-2], parameter.shape[-2] - 1))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            flat = [layer.in_features // width for width in widths if width < layer.in_features]
            hints |= dict.fromkeys([*flat, layer.in_features])
    return [hint for hint in hints if 1 <= hint <= _LONGEST_HINT][:_MOST_LENGTHS_HINTED]


def _hinted_sizes(model: nn.Module) -> list[int]:
    """Sizes of images that attributes name, or tables of the positions of patches ask for."""
    named = [
        extent
        for module in model.modules()
        for attribute in ("img_size", "image_size", "input_size")
        for extent in _extents(getattr(module, attribute, None))
        if not isinstance(module, (nn.RNNBase, *_CELLS))
    ]
    strides = {
        layer.stride[0]
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d) and layer.stride == layer.kernel_size
    }
    for name, parameter in model.named_parameters():
        if "pos" in name.lower() and parameter.ndim >= 2:
            for patches in (parameter.shape[-2], parameter.shape[-2] - 1):
                side = math.isqrt(max(patches, 0))
                if side and side * side == patches:
                    named += [side * stride for stride in strides]
    return [size for size in named if 1 <= size <= 2 * max(_SIZES)]


def _extents(value: Any) -> list[int]:
    """The last two entries of a size, whether it is a number, a pair, or has channels in front."""
    values = list(value)[-2:] if isinstance(value, (tuple, list)) else [value]
    return [each for each in values if isinstance(each, int) and not isinstance(each, bool)]
