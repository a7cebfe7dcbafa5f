"""Folders of models of transformers. Nothing is downloaded."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import gradscope
from gradscope.errors import CheckpointError, SubjectError
from tests.gradscope.tiny_transformers import BERT, GPT2, LLAMA, build


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


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
        (
            '{"model_type": "bert", "_attn_implementation": {"": "evil/kernel"}}',
            ["'evil/kernel'", "never downloaded"],
        ),
        (
            '{"model_type": "llava", "text_config": {"attn_implementation": ["evil/kernel"]}}',
            ["'evil/kernel'", "never downloaded"],
        ),
        ("[" * 200_000, ["cannot be read"]),
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


@pytest.mark.parametrize("way", ["index", "link"])
def test_weights_that_lie_elsewhere_are_not_read(tmp_path: Path, way: str) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    saved(folder, build("BertModel", BERT))
    elsewhere.mkdir()
    weights = (folder / "model.safetensors").rename(elsewhere / "model.safetensors")
    if way == "link":
        (folder / "model.safetensors").symlink_to(weights)
    else:
        shard = f"../elsewhere/{weights.name}"
        index = {"weight_map": {"embeddings.word_embeddings.weight": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"link out of|not the plain name"):
        gradscope.load_subject(str(folder))


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
