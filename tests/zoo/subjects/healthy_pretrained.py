"""Healthy models of Hugging Face's, small and from scratch, and what is done with trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.zoo.subjects.datasets import chains, images, sentences
from tests.zoo.subjects.networks import PIXELS, dense
from tests.zoo.subjects.optimizers import adam, adamw, clipped, sgd
from tests.zoo.subjects.tasks import classify, fresh_and_trained

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


class Labelled:
    """Token sequences with what a model of Hugging Face's calls its labels."""

    def __init__(self, *, classes: bool) -> None:
        self.classes = classes

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        data = chains(batch_size=32) if self.classes else sentences(24)
        for tokens, labels in data:
            yield {"input_ids": tokens, "labels": labels if self.classes else tokens}


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    config = GPT2Config(
        n_embd=48, n_head=4, n_layer=2, n_positions=32, vocab_size=28, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=28, max_position_embeddings=32))  # type: ignore[no-any-return]


def bert() -> nn.Module:
    config = BertConfig(**SMALL, vocab_size=16, max_position_embeddings=24, num_labels=4)
    return BertForSequenceClassification(config)  # type: ignore[no-any-return]


class Adapter(nn.Module):
    """A frozen layer and a trained product of two narrow ones (Hu et al. 2021, LoRA)."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T  # type: ignore[no-any-return]


def adapted() -> nn.Module:
    """Trained features with an adapter at each layer, under an output layer that is new."""
    *hidden, _ = told_apart(dense(PIXELS, [96] * 3))
    layers = [Adapter(layer) if isinstance(layer, nn.Linear) else layer for layer in hidden]
    return nn.Sequential(*layers, nn.Linear(96, 10))


def told_apart(model: nn.Sequential) -> nn.Sequential:
    """The model after some training on five of the ten kinds."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for pictures, labels in images():
        known = labels < 5
        loss = functional.cross_entropy(model(pictures[known]), labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model


def new_head() -> nn.Module:
    """Trained features that stay as they are, under an output layer that is new."""
    model = told_apart(dense(PIXELS, [96] * 3)).requires_grad_(False)
    model[-1] = nn.Linear(96, 10)
    return model


class Student(nn.Module):
    """A narrow network, and the wide one that it learns from (Hinton, Vinyals, Dean 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = told_apart(dense(PIXELS, [96] * 2)).requires_grad_(False)
        self.student = dense(PIXELS, [24] * 2)


def distil(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, Student)
    with torch.no_grad():
        wanted = functional.log_softmax(model.teacher(batch[0]) / 2, dim=1)
    given = functional.log_softmax(model.student(batch[0]) / 2, dim=1)
    return 4 * functional.kl_div(given, wanted, log_target=True, reduction="batchmean")


def classify_in_bfloat16(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0].bfloat16()).float(), batch[1])


def classify_in_mixed_precision(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return classify(model, batch)


CASES = (
    *fresh_and_trained(
        "hf-gpt2",
        gpt2,
        clipped(adamw(3e-3)),
        step=own_loss,
        data=partial(Labelled, classes=False),
        trained=120,
    ),
    *fresh_and_trained(
        "hf-llama",
        llama,
        clipped(adamw(3e-3)),
        step=own_loss,
        data=partial(Labelled, classes=False),
        trained=120,
    ),
    *fresh_and_trained(
        "hf-bert",
        bert,
        adamw(2e-3),
        step=own_loss,
        data=partial(Labelled, classes=True),
        trained=150,
    ),
    *fresh_and_trained("adapters", adapted, adam(2e-3)),
    *fresh_and_trained("new-head", new_head, sgd(0.005)),
    *fresh_and_trained("student", Student, adam(2e-3), step=distil),
    *fresh_and_trained(
        "mlp-bfloat16",
        lambda: dense(PIXELS, [128] * 2).bfloat16(),
        sgd(),
        step=classify_in_bfloat16,
    ),
    *fresh_and_trained(
        "mlp-mixed-precision",
        lambda: dense(PIXELS, [128] * 3, activation=nn.GELU),
        adam(),
        step=classify_in_mixed_precision,
    ),
)
