"""The smallest models of Hugging Face's that several tests make on the spot."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 90,
}

BERT = BertConfig(**SMALL, max_position_embeddings=20)
GPT2 = GPT2Config(
    n_embd=32, n_head=2, n_layer=1, n_positions=40, vocab_size=90, bos_token_id=1, eos_token_id=1
)
LLAMA = LlamaConfig(**SMALL, max_position_embeddings=64)


def build(architecture: str, config: Any, **changes: Any) -> Any:
    own = type(config).from_dict({**config.to_dict(), **changes})
    return getattr(transformers, architecture)(own)
