"""Models of transformers: folders of them, and what they are given. Nothing is downloaded."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BartConfig,
    BertConfig,
    CLIPConfig,
    GPT2Config,
    LlamaConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

import gradscope
from gradscope.batches import own_loss
from gradscope.errors import SubjectError
from gradscope.synthetic import inferred_batches

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 90,
}
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

BERT = BertConfig(**SMALL, max_position_embeddings=20)
GPT2 = GPT2Config(
    n_embd=32, n_head=2, n_layer=1, n_positions=40, vocab_size=90, bos_token_id=1, eos_token_id=1
)
LLAMA = LlamaConfig(**SMALL, max_position_embeddings=64)
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


def build(architecture: str, config: Any, **changes: Any) -> Any:
    own = type(config).from_dict({**config.to_dict(), **changes})
    return getattr(transformers, architecture)(own)


def first(model: Any) -> Any:
    return next(iter(inferred_batches(model)))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# --- Batches --------------------------------------------------------------------------------------


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


# --- Folders --------------------------------------------------------------------------------------


def saved(folder: Path, model: Any, *, weights: bool = True, **options: Any) -> str:
    model.config.architectures = [type(model).__name__]
    (model if weights else model.config).save_pretrained(folder, **options)
    return str(folder)


def refused(folder: Path | str) -> str:
    with pytest.raises(SubjectError) as caught:
        gradscope.load_subject(str(folder))
    return str(caught.value)


def same(one: Any, other: Any) -> bool:
    weights = other.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("form", ["safetensors", "several", "bin"])
def test_saved_weights_are_taken(tmp_path: Path, form: str) -> None:
    torch.manual_seed(4)
    model = build("LlamaForCausalLM", LLAMA)
    folder = saved(tmp_path, model, **({"max_shard_size": "20KB"} if form == "several" else {}))
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    subject = gradscope.load_subject(folder)
    assert (subject.name, subject.kind, subject.build_data) == (folder, "Hugging Face folder", None)
    one, other = subject.build_model(), subject.build_model()
    assert one is not other
    assert type(one).__name__ == "LlamaForCausalLM"
    assert same(one, model)
    assert same(other, model)


def test_fresh_weights_are_the_seeds_and_are_called_so(tmp_path: Path) -> None:
    subject = gradscope.load_subject(saved(tmp_path, build("GPT2Model", GPT2), weights=False))
    assert subject.kind == "Hugging Face folder, fresh weights"
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(subject.build_model())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_weights_that_are_missing_are_counted(tmp_path: Path) -> None:
    saved(tmp_path, build("BertModel", BERT, architectures=None))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "architectures": ["BertForTokenClassification"]}))
    subject = gradscope.load_subject(str(tmp_path))
    assert subject.kind == "Hugging Face folder, 2 weights missing and fresh"
    assert type(subject.build_model()).__name__ == "BertForTokenClassification"


def test_without_architectures_it_is_the_base_model(tmp_path: Path) -> None:
    BERT.save_pretrained(tmp_path)
    assert type(gradscope.load_subject(str(tmp_path)).build_model()).__name__ == "BertModel"


@pytest.mark.parametrize("weights", [True, False])
def test_numbers_have_the_type_that_was_saved(tmp_path: Path, weights: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = build("GPT2Model", GPT2, dtype=dtype).to(dtype)
        folder = saved(tmp_path / str(dtype), model, weights=weights)
        assert gradscope.load_subject(folder).build_model().dtype is dtype


def test_a_classifier_without_a_token_for_padding_is_given_one(tmp_path: Path) -> None:
    model = build("GPT2ForSequenceClassification", GPT2)
    assert model.config.pad_token_id is None
    report = gradscope.scan(gradscope.load_subject(saved(tmp_path, model)), steps=2)
    assert report.profile is not None
    assert report.profile.batch_size == 32


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["cannot be read", "JSONDecodeError"]),
        ("[1]", ["is not a JSON object"]),
        ("{}", ["cannot be read", "model_type"]),
        ('{"model_type": "of-my-own"}', ["cannot be read", "of-my-own"]),
        (
            '{"model_type": "bert", "architectures": ["MyBert"]}',
            ["MyBert", "does not have", "build the model in a subject file"],
        ),
        ('{"model_type": "bert", "architectures": ["os"]}', ["holds a os", "does not have"]),
        ('{"model_type": "bert", "hidden_size": 7}', ["multiple"]),
        (
            '{"model_type": "llama", "attn_implementation": "kernels-community/flash"}',
            ["'kernels-community/flash'", "never downloaded"],
        ),
    ],
)
def test_a_folder_that_cannot_be_read(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SubjectError) as caught:
        gradscope.load_subject(str(tmp_path)).build_model()
    message = str(caught.value)
    assert str(tmp_path) in message
    for word in words:
        assert word in message


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    entries = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": entries}))
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": entries}))
    gradscope.load_subject(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_a_pickle_of_code_are_not_run(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    saved(tmp_path, build("BertModel", BERT), weights=False)
    torch.save({"embeddings": Runs()}, tmp_path / "pytorch_model.bin")
    assert "cannot be read" in refused(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_without_transformers_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BERT.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(tmp_path).endswith("; pip install transformers.")
