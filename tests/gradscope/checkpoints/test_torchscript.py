from __future__ import annotations

import random
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradscope.checkpoints.formats.torchscript import TorchScriptReader
from gradscope.errors import CheckpointError

READER = TorchScriptReader()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.tied(x)
        return out


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def sound(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scripts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(model)
        script.save(str(folder / "script.pt"))
        torch.jit.trace(model, torch.randn(2, 3)).save(str(folder / "trace.pt"))
        script._save_for_lite_interpreter(str(folder / "lite.ptl"))
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["script", "trace", "lite"])
def test_weights_are_read_where_the_file_is_trusted(
    kind: str, model: nn.Module, sound: dict[str, Path]
) -> None:
    assert READER.recognises(sound[kind])
    checkpoint = READER.read(sound[kind], trust_pickle=True)
    assert checkpoint.form == "TorchScript program"
    names = checkpoint.weights.keys() | checkpoint.aliases.keys()
    assert names == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        stored = checkpoint.weights[checkpoint.aliases.get(name, name)]
        assert stored.dtype == tensor.dtype
        assert torch.equal(stored.load(), tensor)
    assert set(checkpoint.aliases.items()) in (
        {("tied.weight", "layers.0.weight")},
        {("layers.0.weight", "tied.weight")},
    )


@pytest.mark.parametrize("kind", ["script", "trace", "lite"])
def test_nothing_is_loaded_without_trust(
    kind: str, sound: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.jit, "load")
    with pytest.raises(CheckpointError) as raised:
        READER.read(sound[kind], trust_pickle=False)
    assert str(raised.value) == (
        f"{sound[kind]} is a TorchScript program, whose code would have to be loaded to read its "
        "weights; save model.state_dict() with torch.save, or pass --trust-pickle, which runs code "
        "in the file and is for files of your own only."
    )


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "zip.pt").write_bytes(b"PK\3\4" + bytes(100))
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
    for name in ("weights.pt", "text.pt", "zip.pt", "other.pt", "missing", "."):
        assert not READER.recognises(tmp_path / name)


@pytest.mark.parametrize("twentieth", range(20))
def test_a_file_that_was_cut_is_refused(
    twentieth: int, sound: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "cut.pt"
    data = sound["script"].read_bytes()
    path.write_bytes(data[: len(data) * twentieth // 20])
    assert not READER.recognises(path)
    with pytest.raises(CheckpointError, match=r"cannot be read by torch\.jit\.load"):
        READER.read(path, trust_pickle=True)


def test_recognising_damaged_files_raises_nothing(sound: dict[str, Path], tmp_path: Path) -> None:
    random.seed(0)
    path = tmp_path / "damaged.pt"
    for _ in range(100):
        data = bytearray(sound["script"].read_bytes())
        for _ in range(20):
            data[random.randrange(len(data))] = random.randrange(256)
        path.write_bytes(bytes(data))
        READER.recognises(path)
