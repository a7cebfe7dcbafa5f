"""The order of layers, from their names alone."""

from __future__ import annotations

import random

import pytest
from torch import nn

from gradscope.checkpoints.contents.name_tree import ordered, tree_of

MODELS = {
    "numbers": ["0.weight", "0.bias", "2.weight", "2.bias", "10.weight", "10.bias"],
    "ResNet": [
        *("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.num_batches_tracked"),
        *("layer1.0.conv1.weight", "layer1.0.bn1.weight", "layer1.0.conv2.weight"),
        *("layer1.0.bn2.weight", "layer1.0.downsample.0.weight", "layer2.0.conv1.weight"),
        *("layer10.0.conv1.weight", "fc.weight", "fc.bias"),
    ],
    "BERT": [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.2.attention.self.query.weight",
        "bert.encoder.layer.2.intermediate.dense.weight",
        "bert.encoder.layer.2.output.dense.weight",
        "bert.encoder.layer.11.attention.self.query.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
        "classifier.bias",
    ],
    "GPT-2": [
        "transformer.wte.weight",
        "transformer.h.9.w",
        "transformer.h.10.w",
        "lm_head.weight",
    ],
    "T5": ["shared.weight", "encoder.block.0.w", "decoder.block.0.w", "lm_head.weight"],
    "ViT": ["cls_token", "patch_embed.proj.weight", "blocks.0.w", "norm.weight", "head.weight"],
    "LeNet": ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight", "fc3.weight"],
    "U-Net": [
        "conv_in.weight",
        "down_blocks.0.w",
        "mid_block.w",
        "up_blocks.0.w",
        "conv_out.weight",
    ],
    "one tensor": ["weight"],
    "odd": ["", "a..b", "a.b.", "٣.weight"],
}


@pytest.mark.parametrize("model", MODELS)
def test_order_of_known_models(model: str) -> None:
    names = MODELS[model]
    for seed in range(5):
        mixed = random.Random(seed).sample(names, len(names))
        found = ordered(tree_of(mixed))
        assert sorted(found) == sorted(names)
        if model != "odd":
            assert found == names


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LSTM(3, 4, num_layers=11, bidirectional=True),
        lambda: nn.Sequential(
            *(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(12))
        ),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(3, 4), nn.LayerNorm(4)),
    ],
)
def test_order_of_modules_of_torch(build: type[nn.Module]) -> None:
    names = list(build().state_dict())
    assert ordered(tree_of(sorted(names))) == names


def test_hints_order_what_names_leave_open() -> None:
    names = ["alpha.0.weight", "alpha.1.weight", "beta.weight", "gamma.weight", "head.weight"]
    hints = {"gamma.weight": 0, "beta.weight": 1, "alpha.1.weight": 1, "alpha.0.weight": 2}
    assert ordered(tree_of(names, {**hints, "head.weight": 0})) == [
        *("gamma.weight", "alpha.0.weight", "alpha.1.weight", "beta.weight", "head.weight")
    ]


def test_what_is_known_of_some_moves_these_alone() -> None:
    names = ["a.weight", "b.weight", "c.weight", "c.bias", "d.weight"]
    known = {"d.weight": 0, "c.bias": 1, "a.weight": 2}
    assert ordered(tree_of(names), known) == [
        *("d.weight", "b.weight", "c.weight", "c.bias", "a.weight")
    ]


def test_names_without_end() -> None:
    deep = ["." * 100_000 + "weight", "a." * 50_000 + "bias", "9" * 5000 + ".weight"]
    assert sorted(ordered(tree_of(deep))) == sorted(deep)
