"""What models of transformers are given, as their config tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    CLIPConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from gradscope.batches import own_loss, tensors_in
from gradscope.inputs import inferred_batches
from tests.gradscope.tiny_transformers import BERT, GPT2, LLAMA, SMALL, build

TWO_PARTS: dict[str, Any] = {
    "d_model": 32,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "encoder_layers": 1,
    "vocab_size": 90,
}

T5 = T5Config(
    d_ff=64, d_kv=16, d_model=32, decoder_start_token_id=0, num_heads=2, num_layers=1, vocab_size=90
)
BART = BartConfig(**TWO_PARTS, max_position_embeddings=40)
VIT = ViTConfig(**SMALL, image_size=24, num_channels=1, patch_size=8)
WHISPER = WhisperConfig(
    **TWO_PARTS,
    bos_token_id=2,
    decoder_start_token_id=4,
    eos_token_id=3,
    max_source_positions=20,
    max_target_positions=12,
    num_mel_bins=8,
    pad_token_id=1,
)
WAV2VEC2 = Wav2Vec2Config(
    **SMALL,
    conv_dim=(8, 8),
    conv_kernel=(10, 4),
    conv_stride=(5, 4),
    num_conv_pos_embedding_groups=2,
    num_conv_pos_embeddings=8,
    num_feat_extract_layers=2,
)
CLIP = CLIPConfig(
    text_config={**SMALL, "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 2},
    vision_config={**SMALL, "image_size": 16, "patch_size": 8},
)

TEXT, BOTH = ["attention_mask", "input_ids"], ["attention_mask", "decoder_input_ids", "input_ids"]
LABELLED = {
    "BertForMaskedLM": (BERT, [*TEXT, "labels"]),
    "BertForPreTraining": (BERT, [*TEXT, "labels", "next_sentence_label"]),
    "BertForNextSentencePrediction": (BERT, [*TEXT, "labels"]),
    "BertForSequenceClassification": (BERT, [*TEXT, "labels"]),
    "BertForTokenClassification": (BERT, [*TEXT, "labels"]),
    "BertForMultipleChoice": (BERT, [*TEXT, "labels"]),
    "BertForQuestionAnswering": (BERT, ["attention_mask", "end_positions", "input_ids"]),
    "GPT2LMHeadModel": (GPT2, [*TEXT, "labels"]),
    "LlamaForCausalLM": (LLAMA, [*TEXT, "labels"]),
    "T5ForConditionalGeneration": (T5, [*BOTH, "labels"]),
    "BartForConditionalGeneration": (BART, [*BOTH, "labels"]),
    "BartForSequenceClassification": (BART, [*BOTH, "labels"]),
    "ViTForImageClassification": (VIT, ["labels", "pixel_values"]),
    "WhisperForConditionalGeneration": (
        WHISPER,
        ["decoder_input_ids", "input_features", "labels"],
    ),
    "Wav2Vec2ForCTC": (WAV2VEC2, ["input_values", "labels"]),
    "CLIPModel": (CLIP, [*TEXT, "pixel_values", "return_loss"]),
}
BASES = {
    "BertModel": (BERT, TEXT),
    "GPT2Model": (GPT2, TEXT),
    "T5EncoderModel": (T5, TEXT),
    "T5Model": (T5, BOTH),
    "ViTModel": (VIT, ["pixel_values"]),
    "WhisperModel": (WHISPER, ["decoder_input_ids", "input_features"]),
    "Wav2Vec2Model": (WAV2VEC2, ["input_values"]),
}


def first(model: Any) -> Any:
    return next(iter(inferred_batches(model)))


@pytest.mark.parametrize("architecture", LABELLED)
def test_a_model_with_a_task_gets_labels_and_computes_its_loss(architecture: str) -> None:
    config, names = LABELLED[architecture]
    model = build(architecture, config)
    batch = first(model)
    assert sorted({*batch} - {"start_positions"}) == sorted(names)
    loss = own_loss(model.train()(**batch))
    assert loss is not None
    assert torch.isfinite(loss)


@pytest.mark.parametrize("architecture", BASES)
def test_a_model_without_a_task_gets_inputs_alone(architecture: str) -> None:
    config, names = BASES[architecture]
    model = build(architecture, config)
    batch = first(model)
    assert sorted(batch) == names
    assert own_loss(model(**batch)) is None


def test_the_config_says_how_large_inputs_are() -> None:
    assert first(build("BertModel", BERT))["input_ids"].shape == (32, 18)
    assert first(build("LlamaModel", LLAMA))["input_ids"].shape == (32, 32)
    assert first(build("ViTModel", VIT))["pixel_values"].shape == (32, 1, 24, 24)
    whisper = first(build("WhisperModel", WHISPER))
    assert whisper["input_features"].shape == (32, 8, 40)
    assert whisper["decoder_input_ids"].shape == (32, 10)
    assert first(build("BertForMultipleChoice", BERT))["input_ids"].shape == (32, 2, 18)


def test_tokens_mean_nothing_special_and_a_decoder_sees_what_came_before() -> None:
    batch = first(build("BartForConditionalGeneration", BART))
    special = {BART.bos_token_id, BART.pad_token_id, BART.eos_token_id}
    assert not special & set(batch["input_ids"][:, :-1].flatten().tolist())
    assert set(batch["input_ids"][:, -1].tolist()) == {BART.eos_token_id}
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])
    assert set(batch["decoder_input_ids"][:, 0].tolist()) == {BART.decoder_start_token_id}
    masked = first(build("BertForMaskedLM", BERT))
    told = masked["labels"] >= 0
    assert torch.equal(masked["labels"][told], masked["input_ids"][told])
    assert 0.1 < told.float().mean() < 0.2


@pytest.mark.parametrize(
    ("changes", "shape", "dtype"),
    [
        ({"id2label": {number: str(number) for number in range(4)}}, (32,), torch.int64),
        ({"id2label": {0: "score"}}, (32,), torch.float32),
        ({"problem_type": "multi_label_classification"}, (32, 2), torch.float32),
        ({"problem_type": "regression"}, (32, 2), torch.float32),
    ],
)
def test_labels_are_of_the_kind_of_the_problem(
    changes: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    labels = first(build("BertForSequenceClassification", BERT, **changes))["labels"]
    assert (tuple(labels.shape), labels.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("BertForMaskedLM", BERT),
        ("BartForConditionalGeneration", BART),
        ("BertForSequenceClassification", BERT),
        ("ViTForImageClassification", VIT),
        ("WhisperForConditionalGeneration", WHISPER),
    ],
)
def test_the_default_device_is_not_the_models(architecture: str, config: Any) -> None:
    model = build(architecture, config)
    expected = list(tensors_in(first(model)))
    with torch.device("meta"):
        made = list(tensors_in(first(model)))
    assert all(torch.equal(one, two) for one, two in zip(made, expected, strict=True))
