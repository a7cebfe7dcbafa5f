"""One training with several faults, whose state the tests write in every form."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

__all__ = ["BOTH", "TRUSTED", "WEIGHTS", "Faulty", "Write", "state"]

INPUTS, WIDTH, CLASSES, SIGMOIDS, STEPS = 12, 16, 4, 7, 40
DEAD = 12


class Faulty(nn.Module):
    """Sigmoids through which the gradient vanishes, dead ReLUs, units that are all alike.

    Sorted by name, as safetensors does, ``body.10`` comes before ``body.2`` and ``stem`` last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(INPUTS, WIDTH)
        layers: list[nn.Module] = []
        for _ in range(SIGMOIDS):
            layers += [nn.Linear(WIDTH, WIDTH), nn.Sigmoid()]
        self.body = nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.norm = nn.BatchNorm1d(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(torch.relu(self.norm(self.body(torch.sigmoid(self.stem(x))))))
        return found


@cache
def trained() -> tuple[Faulty, torch.optim.Optimizer]:
    """By SGD with momentum; nobody changes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Faulty()
        nn.init.constant_(net.stem.weight, 0.1)
        nn.init.zeros_(net.stem.bias)
        nn.init.constant_(net.body.get_submodule("0").weight, 0.1)  # type: ignore[arg-type]
        last = net.body[2 * SIGMOIDS]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 1.0)
        nn.init.constant_(last.bias[:DEAD], -5.0)
        nn.init.constant_(net.norm.bias[:DEAD], -4.0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        for _ in range(STEPS):
            inputs = torch.randn(32, INPUTS)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), inputs[:, :CLASSES].argmax(1)).backward()
            optimizer.step()
    return net, optimizer


def state(wrap: str = "{}") -> dict[str, Any]:
    """A copy of what a script saves; names of weights are put into ``wrap``."""
    net, optimizer = trained()
    weights = {wrap.format(name): tensor for name, tensor in net.state_dict().items()}
    return deepcopy({"model": weights, "optimizer": optimizer.state_dict(), "step": STEPS})


def as_lightning(wrap: str = "model.{}") -> dict[str, Any]:
    """The layout of a Lightning 2 checkpoint, which is not installed here."""
    saved = state(wrap)
    return {
        "epoch": 1,
        "global_step": STEPS,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": saved["model"],
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [saved["optimizer"]],
        "lr_schedulers": [],
    }


Write = Callable[[Path], Path]


def one(name: str, value: Callable[[], Any], new: bool = True) -> Write:
    """One file of torch.save."""

    def write(folder: Path) -> Path:
        torch.save(value(), folder / name, _use_new_zipfile_serialization=new)
        return folder / name

    return write


def contiguous(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def safetensors(folder: Path) -> Path:
    save_file(contiguous(state()["model"]), folder / "model.safetensors", {"format": "pt"})
    return folder / "model.safetensors"


def shards(safe: bool) -> Write:
    """By the writer that transformers and accelerate use, into about five files."""

    def write(folder: Path) -> Path:
        huggingface_hub.save_torch_state_dict(
            state()["model"],
            folder,
            max_shard_size=2000,
            safe_serialization=safe,
            filename_pattern="model{suffix}.safetensors" if safe else "pytorch_model{suffix}.bin",
        )
        (index,) = folder.glob("*.index.json")
        assert len(set(json.loads(index.read_text())["weight_map"].values())) > 3
        return index

    return write


def of_transformers(folder: Path) -> Path:
    """By save_pretrained itself."""
    transformers = pytest.importorskip("transformers")

    class Wrapped(transformers.PreTrainedModel):  # type: ignore[misc, name-defined]
        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for name, part in deepcopy(trained()[0]).named_children():
                self.add_module(name, part)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            """They are trained."""

    Wrapped(transformers.PretrainedConfig()).save_pretrained(folder)
    return folder


def hugging_face(weights: Write, optimizer: bool = True) -> Write:
    """What Trainer leaves beside weights."""

    def write(folder: Path) -> Path:
        weights(folder)
        if not (folder / "config.json").exists():
            (folder / "config.json").write_text('{"model_type": "bert"}')
        if optimizer:
            torch.save(state()["optimizer"], folder / "optimizer.pt")
            torch.save({"last_epoch": STEPS}, folder / "scheduler.pt")
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": STEPS}))
        return folder

    return write


def accelerate(folder: Path) -> Path:
    """The layout of save_state(), which is not installed here."""
    safetensors(folder)
    torch.save(state()["optimizer"], folder / "optimizer.bin")
    torch.save({"last_epoch": STEPS}, folder / "scheduler.bin")
    (folder / "random_states_0.pkl").write_bytes(pickle.dumps({"step": STEPS}))
    return folder


def plain_folder(folder: Path) -> Path:
    safetensors(folder).rename(folder / "weights.safetensors")
    torch.save(state()["optimizer"], folder / "optimizer.pth")
    return folder


def distributed(by_name: bool) -> Write:
    def write(folder: Path) -> Path:
        saved = state()
        if by_name:
            from torch.distributed.checkpoint.state_dict import get_state_dict

            saved["model"], saved["optimizer"] = get_state_dict(*trained())
        save_distributed(saved, checkpoint_id=folder, no_dist=True)
        return folder

    return write


def exported(folder: Path) -> Path:
    net = deepcopy(trained()[0]).eval()
    program = torch.export.export(net, (torch.randn(2, INPUTS),))
    torch.export.save(program, str(folder / "program.pt2"))
    return folder / "program.pt2"


def scripted(folder: Path) -> Path:
    torch.jit.script(trained()[0]).save(str(folder / "program.pt"))
    return folder / "program.pt"


def averaged() -> dict[str, Any]:
    net = trained()[0]
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    return dict(average.state_dict())


WEIGHTS: dict[str, Write] = {
    "bare state_dict": one("a.pth", lambda: state()["model"]),
    "bare state_dict, old format": one("a.pth", lambda: state()["model"], new=False),
    "state_dict beside an epoch": one("a.pt", lambda: {"net": state()["model"], "epoch": 1}),
    "safetensors": safetensors,
    "sharded safetensors": shards(True),
    "sharded .bin": shards(False),
    "Hugging Face folder": of_transformers,
    "Hugging Face folder of shards": hugging_face(shards(True), optimizer=False),
    ".pt2": exported,
    "TorchScript": scripted,
    "whole module": one("a.pt", lambda: deepcopy(trained()[0])),
    "whole module, old format": one("a.pt", lambda: deepcopy(trained()[0]), new=False),
    "DDP": one("a.pt", lambda: state("module.{}")["model"]),
    "compiled": one("a.pt", lambda: state("_orig_mod.{}")["model"]),
    "an average": one("a.pt", lambda: {"ema": averaged()}),
}
"""Writes the weights alone into a folder."""

BOTH: dict[str, Write] = {
    ".pt": one("a.pt", state),
    ".pth of the old format": one("a.pth", state, new=False),
    ".bin": one("a.bin", state),
    "Lightning": one("a.ckpt", as_lightning),
    "Lightning, compiled": one("a.ckpt", lambda: as_lightning("model._orig_mod.{}")),
    "DDP": one("a.pt", lambda: state("module.{}")),
    "compiled DDP": one("a.pt", lambda: state("module._orig_mod.{}")),
    "an average beside": one("a.pt", lambda: {**state(), "model_ema": averaged()}),
    "Hugging Face folder": hugging_face(of_transformers),
    "Hugging Face folder of shards": hugging_face(shards(True)),
    "Hugging Face folder of .bin": hugging_face(shards(False)),
    "accelerate": accelerate,
    "folder": plain_folder,
    "distributed": distributed(by_name=False),
    "distributed, by name": distributed(by_name=True),
}
"""Writes the weights and the optimizer."""

TRUSTED = ("TorchScript", "whole module", "whole module, old format")
"""Those that have to be trusted to be read."""
