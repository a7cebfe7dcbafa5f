"""What a checkpoint tells by itself, without the model's code: plain records, no torch.

They are part of a profile (``Profile.stored``) that nobody measured: numbers that were saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

__all__ = [
    "BatchNormEvidence",
    "GradientEvidence",
    "LayerOrder",
    "Stored",
    "StoredRole",
    "StoredWeight",
    "TensorStatistics",
]


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """What one pass over a tensor shows.

    Attributes:
        elements: how many; the parts of complex numbers count as two.
        rms: of the finite elements; NaN where there are none.
        nonfinite: how many elements are NaN or infinite.
        first_nonfinite: index of the first of them; None where all are finite.
        rows: the extent of dimension 0; 0 for fewer than two dimensions, and what follows then
            is 0 or None.
        zero_rows: share of rows that are all zero.
        duplicate_rows: share of rows that are finite, not all zero, and equal another row.
        effective_rank: exponential of the entropy of the singular values' shares (Roy, Vetterli
            2007) over the largest that it could be, of at most 64 by 1024 evenly spaced rows and
            columns; independent random elements give about 0.97. None where one of these is not
            finite, all are zero, or there are fewer than two rows or columns.
    """

    elements: int
    rms: float
    nonfinite: int
    first_nonfinite: tuple[int, ...] | None
    rows: int = 0
    zero_rows: float = 0.0
    duplicate_rows: float = 0.0
    effective_rank: float | None = None


class StoredRole(StrEnum):
    """What a stored tensor looks like.

    A matrix or kernel of a layer; a table that is looked up; what is added to a layer's outputs;
    any other parameter of one dimension or none, such as a normalisation's scale; or what is no
    parameter, such as running statistics, masks and counters.
    """

    WEIGHT = "weight"
    EMBEDDING = "embedding"
    BIAS = "bias"
    SCALE = "scale"
    BUFFER = "buffer"


class LayerOrder(StrEnum):
    """Where the order of a checkpoint's layers comes from.

    The file keeps that in which the model was built; or it does not, and an optimizer that has all
    parameters tells it; or nothing does, and it is guessed from names and numbers.
    """

    MODEL = "model"
    OPTIMIZER = "optimizer"
    NAMES = "names"


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """One tensor of the model.

    Attributes:
        name: as in the state_dict.
        shape: as stored.
        dtype: such as ``float32``.
        role: what it looks like, by its name, its shape and its type.
        statistics: of its elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: StoredRole
    statistics: TensorStatistics

    @property
    def fan_in(self) -> int:
        """Products that a unit adds up, if rows are units; 0 for fewer than two dimensions."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 else 0

    @property
    def scale(self) -> float:
        """RMS times the root of the fan-in: the factor by which a layer multiplies a signal."""
        return self.statistics.rms * math.sqrt(self.fan_in)


@dataclass(frozen=True, slots=True)
class GradientEvidence:
    """What an optimizer remembers of one parameter's gradient.

    Attributes:
        name, shape: of the parameter.
        optimizer: class name, as in the checkpoint.
        has_state: whether it has ever made a step: frozen parts, and what no gradient ever
            reached, have not.
        step: how many steps it has made; None where the file does not tell.
        steps_behind: how many fewer than the parameter with the most in the same optimizer.
        moment: what the gradient's size is taken from: ``second``, ``largest`` (Adamax: the
            largest of late, two to three times the RMS), ``first`` (momentum: too small where the
            gradients of single steps cancel; taken as if they were independent), or empty.
        gradient_rms: root mean square of the gradient's elements over steps of late, after
            clipping, coupled weight decay taken out; 0 where it was exactly zero at every step, NaN
            where nothing is remembered.
        mean_gradient_rms: of the mean gradient over the last steps (the first moment), coupled
            weight decay taken out; NaN where there is none. About 0.23 of ``gradient_rms`` for
            independent steps under a decay of 0.9.
        decay_share: RMS of what coupled weight decay adds to the gradient over ``gradient_rms``;
            above 1 the latter is a difference of like numbers. 0 for decoupled decay.
        zero_rows: share of rows whose remembered gradient is exactly zero.
        silent_rows: share of rows whose gradient RMS is below 1e-3 of the row's at the upper
            decile, those of zeros included: no gradient for long.
        stopped_rows: share of the other rows whose first moment has decayed to nothing beside the
            second: no gradient lately. 0 where no first moment is kept.
        rows_are_units: False where a bias beside it tells that rows are inputs (transposed
            convolutions, the Conv1D of GPT-2), None where nothing tells, as for square weights.
        embedding: whether it looks like a table that is looked up, by its name or its shape; rows
            without a gradient are then entries that did not come up.
        nonfinite: whether a moment holds NaN or infinity.
        update_ratio: norm of the step that the moments imply at the stored learning rate,
            decoupled weight decay left out, over the norm of the weight; NaN where unknown. Up to
            three times too small for NAdam, which adds the last gradient.
        learning_rate, initial_learning_rate: as stored; NaN where they are not. Schedules keep
            the latter.
        epsilon: what keeps the optimizer from dividing by zero; NaN where it has none.
    """

    name: str
    shape: tuple[int, ...]
    optimizer: str
    has_state: bool
    step: float | None = None
    steps_behind: float = 0.0
    moment: str = ""
    gradient_rms: float = math.nan
    mean_gradient_rms: float = math.nan
    decay_share: float = 0.0
    zero_rows: float = 0.0
    silent_rows: float = 0.0
    stopped_rows: float = 0.0
    rows_are_units: bool | None = None
    embedding: bool = False
    nonfinite: bool = False
    update_ratio: float = math.nan
    learning_rate: float = math.nan
    initial_learning_rate: float = math.nan
    epsilon: float = math.nan

    @property
    def gradient_of_late(self) -> float:
        """RMS of the mean gradient of the last steps, of single ones where no mean is kept.

        0 where nothing is remembered.
        """
        sizes = (self.mean_gradient_rms, self.gradient_rms)
        return next((size for size in sizes if math.isfinite(size)), 0.0)

    @property
    def inactive_rows(self) -> float | None:
        """Share of units that get no gradient; None where rows are not units."""
        if self.embedding or self.rows_are_units is False or self.nonfinite or not self.moment:
            return None
        return self.silent_rows + self.stopped_rows


@dataclass(frozen=True, slots=True)
class BatchNormEvidence:
    """What the parameters of one batch normalisation tell.

    Attributes:
        name: of the module.
        channels: how many.
        off_probability: mean over channels of the probability that the output is not positive,
            Phi(-beta / |gamma|), if it is normal.
        off_channels: share of channels for which that is above 0.99865 (beta below -3 |gamma|): a
            ReLU right behind them is dead. Means nothing where none is, as before an addition.
        zero_variance, subnormal_variance: share of channels whose running variance is exactly
            zero, or below float32's normal numbers but not zero: their input does not vary.
        largest_variance: of all channels; infinity or NaN where one is.
    """

    name: str
    channels: int
    off_probability: float
    off_channels: float
    zero_variance: float
    subnormal_variance: float
    largest_variance: float


@dataclass(frozen=True)
class Stored:
    """All that was read of a checkpoint.

    Attributes:
        form: of it in words, such as ``Lightning checkpoint``.
        step: how many optimizer steps had been made; None where the file does not tell.
        optimizers: class names of the optimizers whose state is in it.
        matching: how their states were told by parameter, one sentence each.
        weights: in the model's order as far as it is known.
        gradients: of each parameter that an optimizer holds, in that order.
        normalisations: of each batch normalisation.
        order: where that of the weights comes from.
    """

    form: str
    step: int | None
    optimizers: tuple[str, ...]
    matching: tuple[str, ...]
    weights: tuple[StoredWeight, ...]
    gradients: tuple[GradientEvidence, ...]
    normalisations: tuple[BatchNormEvidence, ...]
    order: LayerOrder = LayerOrder.MODEL

    @property
    def layers(self) -> tuple[StoredWeight, ...]:
        """The matrices and kernels of layers."""
        return tuple(each for each in self.weights if each.role is StoredRole.WEIGHT)

    @property
    def biases(self) -> tuple[StoredWeight, ...]:
        """What is added to the outputs of layers."""
        return tuple(each for each in self.weights if each.role is StoredRole.BIAS)

    @property
    def hidden(self) -> tuple[StoredWeight, ...]:
        """All of them but the last, which makes the output."""
        return self.layers[:-1]

    def gradient(self, name: str) -> GradientEvidence | None:
        """What is remembered of the gradient of a parameter."""
        return self._gradients.get(name)

    @cached_property
    def _gradients(self) -> dict[str, GradientEvidence]:
        return {each.name: each for each in self.gradients}

    @property
    def steps(self) -> float | None:
        """How many steps the parameter with the most has made; None where nothing tells."""
        told = [each.step for each in self.gradients if each.step is not None]
        return max(told) if told else self.step

    @property
    def gradient_norm(self) -> float:
        """Of all parameters of which an optimizer remembers a gradient, of late."""
        return math.sqrt(
            sum(math.prod(each.shape) * each.gradient_of_late**2 for each in self.gradients)
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all but buffers, by name."""
        return {
            each.name: each.shape for each in self.weights if each.role is not StoredRole.BUFFER
        }

    def without(self, hides: Callable[[str], bool]) -> Stored:
        """The same without parameters and modules of certain names; itself where it has none."""
        names = [each.name for each in self.weights] + [each.name for each in self.normalisations]
        if not any(map(hides, names)):
            return self
        return replace(
            self,
            weights=tuple(each for each in self.weights if not hides(each.name)),
            gradients=tuple(each for each in self.gradients if not hides(each.name)),
            normalisations=tuple(each for each in self.normalisations if not hides(each.name)),
        )
