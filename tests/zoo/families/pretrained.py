"""Tiny models from transformers, as its configurations build them; no weights are loaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.families.entry import FURTHER, STEPS, Family, adam, generator, own_loss


def gpt2() -> nn.Module:
    import transformers

    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2,
            bos_token_id=0, eos_token_id=0, attn_implementation="sdpa", loss_type="ForCausalLMLoss")
    )  # fmt: skip


def bert() -> nn.Module:
    import transformers

    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=13, hidden_size=8, num_hidden_layers=2,
            num_attention_heads=2, intermediate_size=16, max_position_embeddings=8,
            num_labels=3, pad_token_id=0, attn_implementation="eager",
            initializer_range=0.5)
    )  # fmt: skip


def llama() -> nn.Module:
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=13, hidden_size=8, intermediate_size=16,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=8, pad_token_id=0, attn_implementation="sdpa",
            loss_type="ForCausalLMLoss")
    )  # fmt: skip


def sentences(classes: bool) -> Any:
    def make() -> list[dict[str, Tensor]]:
        source = generator()
        batches = []
        for _ in range(STEPS + FURTHER):
            ids = torch.randint(1, 13, (12, 6), generator=source)
            labels = torch.randint(3, (12,), generator=source) if classes else ids.clone()
            batches.append({"input_ids": ids, "labels": labels})
        return batches

    return make


NEEDS = "transformers"

FAMILIES = (
    Family("transformers-gpt2", gpt2, sentences(False), own_loss, needs=NEEDS, optimizer=adam,
        shows=("transformer.h.0.mlp.act::tanh@0", "transformer.h.1.mlp.act")),
    Family("transformers-bert", bert, sentences(True), own_loss, needs=NEEDS,
        shows=("bert.encoder.layer.0.attention.self::softmax@0",),
        rounding=("*.self.key.bias",)),
    Family("transformers-llama", llama, sentences(False), own_loss, needs=NEEDS, attention=True),
)  # fmt: skip
