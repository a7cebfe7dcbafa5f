"""``gradscope scan`` of what comes without data: models alone, and folders of Hugging Face's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import transformers
from transformers import BertConfig, GPT2Config, LlamaConfig, T5Config, ViTConfig

IMAGES = '''
import torch
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Over channels, which are moved behind for it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1)) >= self.rate
        return x * kept / (1 - self.rate)


class LayerScale(nn.Module):
    def __init__(self, width, value=1e-1):
        super().__init__()
        self.gamma = nn.Parameter(value * torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class ConvNeXtBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale, self.drop = LayerScale(width), DropPath(0.1)

    def forward(self, x):
        branch = self.dwconv(x).permute(0, 2, 3, 1)
        branch = self.scale(self.mlp(self.norm(branch))).permute(0, 3, 1, 2)
        return x + self.drop(branch)


def convnext():
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), LayerNorm2d(16), ConvNeXtBlock(16), ConvNeXtBlock(16),
        LayerNorm2d(16), nn.Conv2d(16, 32, 2, 2), ConvNeXtBlock(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 10),
    )


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.ls = nn.LayerNorm(width), LayerScale(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.drop_path = DropPath(0.1)

    def forward(self, x):
        x = x + self.drop_path(self.ls(self.attn(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    def __init__(self, size=32, patch=8, width=32):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit():
    return VisionTransformer()


def made():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 3, 32, 32, generator=generator)
    for _ in range(12):
        y = torch.randint(10, (24,), generator=generator)
        yield means[y] + torch.randn(24, 3, 32, 32, generator=generator), y
'''

PAIRS = (
    IMAGES
    + """

build_model = {name}


def build_data():
    return list(made())


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])
"""
)

MAPPINGS = (
    IMAGES
    + """

build_model = {name}


def build_data():
    return [{{"x": x, "target": y}} for x, y in made()]


def step(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["target"])
"""
)

BERT = BertConfig(
    hidden_size=32,
    intermediate_size=64,
    max_position_embeddings=40,
    num_attention_heads=2,
    num_hidden_layers=2,
    vocab_size=90,
)
CONFIGS: dict[str, Any] = {
    "BertForSequenceClassification": BERT,
    "BertModel": BERT,
    "GPT2LMHeadModel": GPT2Config(
        bos_token_id=1,
        eos_token_id=1,
        n_embd=32,
        n_head=2,
        n_layer=2,
        n_positions=20,
        vocab_size=90,
    ),
    "LlamaForCausalLM": LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=90,
    ),
    "T5ForConditionalGeneration": T5Config(
        d_ff=64,
        d_kv=16,
        d_model=32,
        decoder_start_token_id=0,
        num_heads=2,
        num_layers=2,
        vocab_size=90,
    ),
    "ViTForImageClassification": ViTConfig(
        hidden_size=32,
        image_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        patch_size=8,
    ),
}

LABELLED_TOKENS = """
import torch
from transformers import BatchEncoding

def build_data():
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        ids = torch.randint(90, (16, 12), generator=generator)
        yield BatchEncoding({"input_ids": ids, "labels": ids[:, 0] % 2})

def unlabelled():
    for batch in build_data():
        yield {"input_ids": batch["input_ids"]}
"""


def folder(path: Path, architecture: str, *, weights: bool) -> Path:
    config = CONFIGS[architecture]
    if weights:
        getattr(transformers, architecture)(config).save_pretrained(path)
    else:
        config.architectures = [architecture]
        config.save_pretrained(path)
    return path


def report_of(gradscope: Any, *arguments: Any) -> tuple[int, Any]:
    """Exit status and report, which follows the schema."""
    run = gradscope("scan", *arguments, "--format", "json")
    assert run.out, run.err
    report = json.loads(run.out)
    jsonschema.Draft202012Validator(json.loads(gradscope("schema").out)).validate(report)
    return run.status, report


# --- Subject files --------------------------------------------------------------------------------


def test_a_model_alone_is_examined_on_inputs_that_are_made_up(
    gradscope: Any, sick: Path, healthy: Path
) -> None:
    for target in (f"{sick}:make", f"{healthy}:make"):
        path = Path(target[: -len(":make")])
        text = path.read_text().replace("def build_model", "def make")
        path.write_text(text.replace("def build_data", "def unused"))
    status, report = report_of(gradscope, f"{sick}:make")
    assert (status, report["profile"]["source"]) == (1, "synthetic")
    for finding in report["findings"]:
        assert {measure["source"] for measure in finding["evidence"].values()} == {"synthetic"}
    assert "inputs of shape 32x4 were made up" in json.dumps(report["skipped"])
    assert report_of(gradscope, f"{healthy}:make")[0] == 0


def test_a_subject_file_may_lack_data(gradscope: Any, write: Callable[..., Path]) -> None:
    status, report = report_of(gradscope, write(build_data=""))
    assert (status, report["profile"]["source"]) == (0, "synthetic")


def test_a_loss_that_is_named_is_used_on_inputs_that_are_made_up(
    gradscope: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "losses.py").write_text(
        "def far(output, batch):\n    return output.mean() + 1000\n"
    )
    target = write(build_data="")
    _, report = report_of(gradscope, target, "--loss", "losses.py:far")
    assert min(report["profile"]["losses"]) > 900
    assert report["profile"]["source"] == "synthetic"


def test_a_repair_without_data_is_unverified(gradscope: Any, write: Callable[..., Path]) -> None:
    model = (
        "nn.Sequential(*[m for i in range(6) for m in"
        " (nn.Linear(8 if i else 4, 8), nn.Sigmoid())], nn.Linear(8, 3))"
    )
    target = write(model=model, build_data="")
    run = gradscope("fix", target, "--out", "results", "--unsafe", "--format", "json")
    assert run.status == 1
    assert json.loads(run.out)["verdict"]["status"] == "unverified"


def test_what_cannot_be_made_up_is_said_with_the_way_out(
    gradscope: Any, write: Callable[..., Path]
) -> None:
    target = write(model="nn.Bilinear(4, 4, 3)", build_data="")
    run = gradscope("scan", target)
    assert run.status == 3
    assert "--data FILE.py:NAME" in run.said
    assert len(run.said.splitlines()) == 1


@pytest.mark.parametrize("name", ["convnext", "vit"])
@pytest.mark.parametrize("source", [PAIRS, MAPPINGS, IMAGES], ids=["pairs", "mappings", "alone"])
def test_models_as_timm_writes_them(gradscope: Any, tmp_path: Path, name: str, source: str) -> None:
    path = tmp_path / "images.py"
    path.write_text(source if source is IMAGES else source.format(name=name))
    target = f"{path}:{name}" if source is IMAGES else path
    status, report = report_of(gradscope, target)
    assert (status, report["findings"]) == (0, [])
    assert report["profile"]["source"] == ("synthetic" if source is IMAGES else "measured")


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_folder(gradscope: Any, tmp_path: Path, architecture: str) -> None:
    target = folder(tmp_path / "model", architecture, weights=architecture[0] in "BLV")
    status, report = report_of(gradscope, target)
    assert (status, report["findings"]) == (0, [])
    assert report["profile"]["source"] == "synthetic"
    kind = "Hugging Face folder" + ("" if architecture[0] in "BLV" else ", fresh weights")
    assert report["target"]["kind"] == kind


def test_a_folder_on_labelled_batches_of_ones_own(gradscope: Any, tmp_path: Path) -> None:
    target = folder(tmp_path / "model", "BertForSequenceClassification", weights=True)
    (tmp_path / "tokens.py").write_text(LABELLED_TOKENS)
    status, report = report_of(gradscope, target, "--data", "tokens.py")
    assert (status, report["findings"]) == (0, [])
    assert (report["profile"]["source"], report["profile"]["batch_size"]) == ("measured", 16)
    run = gradscope("scan", target, "--data", "tokens.py:unlabelled")
    assert run.status == 3
    assert "comes without a loss; name one with --loss" in run.said


def test_the_weights_of_a_folder_are_the_seeds_where_it_has_none(
    gradscope: Any, tmp_path: Path
) -> None:
    target = folder(tmp_path / "model", "LlamaForCausalLM", weights=False)
    losses = [
        report_of(gradscope, target, "--steps", "2", "--seed", seed)[1]["profile"]["losses"]
        for seed in ("1", "1", "2")
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_a_folder_is_a_model_by_itself(gradscope: Any, tmp_path: Path, healthy: Path) -> None:
    target = folder(tmp_path / "model", "BertModel", weights=False)
    run = gradscope("scan", target, "--model", healthy)
    assert run.status == 3
    assert "leave --model out" in run.said
