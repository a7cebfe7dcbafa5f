"""Made-up batches for models of Hugging Face's ``transformers``, as their ``config`` tells.

Which inputs and which labels a model takes follows from the arguments of its ``forward`` and from
the name of its class, which ends in its task (``BertForTokenClassification``). transformers itself
is not imported: whoever has such a model has imported it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gradscope.batches import Batch

__all__ = ["Draw", "draws", "is_of_its_kind"]

Draw = Callable[[int, Generator], Batch]
"""Makes a batch of that many samples."""

_TOKENS = 32
_LABELLED_TOKENS = 4
"""Labels of a spoken sequence; there must be several frames for each (Graves et al. 2006)."""

_CHOICES = 2
_PIXELS = 64
"""Where the config names no size, the model takes any."""

_FRAMES = 24
_IGNORED = -100
"""The label that torch's cross entropy ignores."""

_MASKED_EVERY = 7
"""Of the tokens; about the 15 % of Devlin et al. 2019."""

_PER_SAMPLE = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForAudioClassification",
    "ForVideoClassification",
)


def is_of_its_kind(model: nn.Module) -> bool:
    """Whether the model is one of transformers', or wrapped around one as PEFT does it."""
    return hasattr(getattr(model, "config", None), "model_type") and any(
        base.__module__.startswith("transformers.") for base in type(_base(model)).__mro__
    )


def draws(model: nn.Module) -> Iterator[Draw]:
    """What the model may take: with labels first, and its main input alone first."""
    inputs = _Inputs(_base(model))
    for labelled in (True, False):
        for whole in (False, True):
            yield lambda samples, generator, labelled=labelled, whole=whole: inputs.draw(  # type: ignore[misc]
                samples, generator, labelled=labelled, whole=whole
            )


def _base(model: nn.Module) -> nn.Module:
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


class _Inputs:
    """What one model is given."""

    def __init__(self, model: nn.Module) -> None:
        self._config: Any = model.config
        self._task = type(model).__name__
        self._names = set(inspect.signature(model.forward).parameters)
        self._main = str(getattr(model, "main_input_name", "input_ids"))
        self._two_parts = bool(getattr(self._config, "is_encoder_decoder", False))

    def draw(self, samples: int, generator: Generator, *, labelled: bool, whole: bool) -> Batch:
        """A mapping of tensors; ``whole`` gives text and images where ``forward`` takes both."""
        batch: dict[str, Any] = {}
        given = {self._main} | ({"input_ids", "pixel_values"} if whole else set())
        for name, make in (
            ("input_ids", self._input_ids),
            ("pixel_values", self._images),
            ("input_values", self._waves),
            ("input_features", self._features),
        ):
            if name in given and name in self._names:
                batch[name] = make(samples, generator)
        if "input_ids" in batch and "attention_mask" in self._names:
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        targets = None
        if self._two_parts and "decoder_input_ids" in self._names:
            targets = self._ids((samples, self._length(decoder=True)), generator, decoder=True)
            batch["decoder_input_ids"] = self._shifted(targets)
        if labelled:
            batch |= self._labels(batch, targets, samples, generator)
        return batch

    # --- Inputs ---------------------------------------------------------------------------------

    def _text(self, decoder: bool) -> Any:
        """The config that tells of tokens, in models of several parts the one of theirs."""
        text = self._config.get_text_config(decoder=decoder)
        if hasattr(text, "vocab_size"):
            return text
        return getattr(text, "text_config", None) or getattr(text, "decoder", text)

    def _length(self, *, decoder: bool = False) -> int:
        """Tokens, short enough for the table of positions, which may begin with one for padding."""
        text = self._text(decoder)
        names = ("max_target_positions", "max_position_embeddings", "n_positions", "n_ctx")
        limits = [getattr(text, name, None) for name in names]
        known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
        return max(1, min([_TOKENS, *(limit - 2 if limit > 4 else limit for limit in known)]))

    def _ids(
        self, shape: tuple[int, ...], generator: Generator, *, decoder: bool = False
    ) -> Tensor:
        """Tokens of the vocabulary that have no special meaning."""
        text = self._text(decoder)
        special = {
            value
            for config in (self._config, text)
            for name, value in vars(config).items()
            if name.endswith("_token_id") and isinstance(value, int)
        }
        plain = torch.tensor(
            [each for each in range(text.vocab_size) if each not in special], device="cpu"
        )
        if not len(plain):
            plain = torch.arange(text.vocab_size, device="cpu")
        return plain[torch.randint(len(plain), shape, generator=generator, device="cpu")]

    def _input_ids(self, samples: int, generator: Generator) -> Tensor:
        choices = (_CHOICES,) if self._task.endswith("ForMultipleChoice") else ()
        ids = self._ids((samples, *choices, self._length()), generator)
        end = getattr(self._config, "eos_token_id", None)
        if self._two_parts and isinstance(end, int) and end < self._text(False).vocab_size:
            # Some classify a sequence by what the decoder says at its end.
            ids[..., -1] = end
        return ids

    def _shifted(self, targets: Tensor) -> Tensor:
        """What the decoder has seen when it is to say ``targets``."""
        text = self._text(True)
        starts = (
            getattr(config, name, None)
            for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id")
            for config in (self._config, text)
        )
        known = (each for each in starts if isinstance(each, int) and each < text.vocab_size)
        start = next(known, 0)
        return torch.cat([torch.full_like(targets[:, :1], start), targets[:, :-1]], 1)

    def _images(self, samples: int, generator: Generator) -> Tensor:
        vision = getattr(self._config, "vision_config", None) or self._config
        if hasattr(vision, "encoder") and not hasattr(vision, "image_size"):
            vision = vision.encoder  # an encoder and a decoder, each with its own config
        size = getattr(vision, "image_size", None) or _PIXELS
        if isinstance(size, dict):
            size = size.get("height", _PIXELS)
        extents = tuple(size)[-2:] if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(vision, "num_channels", None) or 3
        frames = getattr(vision, "num_frames", None)
        shape = (*((frames,) if isinstance(frames, int) else ()), channels, *extents)
        return torch.randn(samples, *shape, generator=generator, device="cpu")

    def _waves(self, samples: int, generator: Generator) -> Tensor:
        """A wave as long as 24 frames; or a spectrogram, for models of those."""
        config = self._config
        if isinstance(getattr(config, "num_mel_bins", None), int) and hasattr(config, "max_length"):
            shape: tuple[int, ...] = (config.max_length, config.num_mel_bins)
        else:
            strides = getattr(config, "conv_stride", (320,))
            kernels = getattr(config, "conv_kernel", (400,))
            shape = (math.prod(strides) * _FRAMES + sum(kernels),)
        return torch.randn(samples, *shape, generator=generator, device="cpu")

    def _features(self, samples: int, generator: Generator) -> Tensor:
        config = self._config
        if hasattr(config, "max_source_positions") and hasattr(config, "num_mel_bins"):
            # Whisper halves the frames before it adds one position to each.
            shape: tuple[int, ...] = (config.num_mel_bins, 2 * config.max_source_positions)
        else:
            names = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins")
            widths = (getattr(config, name, None) for name in names)
            shape = (4 * _FRAMES, next((each for each in widths if isinstance(each, int)), 80))
        return torch.randn(samples, *shape, generator=generator, device="cpu")

    # --- Labels ---------------------------------------------------------------------------------

    def _labels(
        self, batch: dict[str, Any], targets: Tensor | None, samples: int, generator: Generator
    ) -> dict[str, Any]:
        """What makes the model compute its loss; nothing where its task is not a known one."""
        ids, classes = batch.get("input_ids"), int(getattr(self._config, "num_labels", None) or 2)

        def whole(below: int, *shape: int) -> Tensor:
            return torch.randint(below, (samples, *shape), generator=generator, device="cpu")

        if "return_loss" in self._names:
            return {"return_loss": True}
        if "start_positions" in self._names and ids is not None:
            ends = {"start_positions", "end_positions"}
            return {name: whole(ids.shape[-1]) for name in sorted(ends)}
        if "labels" not in self._names:
            return {}
        if self._task.endswith(_PER_SAMPLE):
            return {"labels": self._per_sample(classes, samples, generator)}
        if self._task.endswith("ForCTC"):
            return {"labels": self._ids((samples, _LABELLED_TOKENS), generator)}
        if self._task.endswith("ForMultipleChoice"):
            return {"labels": whole(_CHOICES)}
        if self._task.endswith("ForNextSentencePrediction"):
            return {"labels": whole(2)}
        if self._task.endswith("ForSemanticSegmentation") and "pixel_values" in batch:
            return {"labels": whole(classes, *batch["pixel_values"].shape[-2:])}
        if targets is not None:
            return {"labels": targets}
        if ids is None:
            return {}
        if self._task.endswith("ForTokenClassification"):
            return {"labels": whole(classes, *ids.shape[1:])}
        if self._task.endswith("ForMaskedLM"):
            return {"labels": _masked(ids)}
        if "next_sentence_label" in self._names:
            return {"labels": _masked(ids), "next_sentence_label": whole(2)}
        if self._task.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            return {"labels": ids.clone()}
        return {}

    def _per_sample(self, classes: int, samples: int, generator: Generator) -> Tensor:
        problem = getattr(self._config, "problem_type", None)
        if problem == "multi_label_classification":
            return torch.randint(2, (samples, classes), generator=generator, device="cpu").float()
        if problem == "regression" or (problem is None and classes == 1):
            shape = (samples, classes) if classes > 1 else (samples,)
            return torch.randn(shape, generator=generator, device="cpu")
        return torch.randint(classes, (samples,), generator=generator, device="cpu")


def _masked(ids: Tensor) -> Tensor:
    """The tokens that a masked language model is to tell."""
    labels = torch.full_like(ids, _IGNORED)
    labels[:, ::_MASKED_EVERY] = ids[:, ::_MASKED_EVERY]
    return labels
