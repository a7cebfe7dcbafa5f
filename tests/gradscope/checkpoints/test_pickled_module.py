from __future__ import annotations

import io
import os
import pickle
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from gradscope.checkpoints.formats.pickled_module import PickledModuleReader
from gradscope.errors import CheckpointError

READER = PickledModuleReader()

SOURCE = """
import torch
from pathlib import Path
from torch import nn

Path({canary!r}).touch()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.layers[0].weight

    def forward(self, x):
        return self.layers(x)
"""


class Brought:
    """A module whose code lies in a folder, and whether that code has run since."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.canary = folder / "canary"
        (folder / "brought_net.py").write_text(SOURCE.format(canary=str(self.canary)))
        monkeypatch.syspath_prepend(folder)
        import brought_net  # type: ignore[import-not-found]

        torch.manual_seed(0)
        self.model: nn.Module = brought_net.Net()
        self.path = folder / "model.pt"

    def save(self, **options: Any) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(self.model, self.path, **options)
        del sys.modules["brought_net"]
        self.canary.unlink()
        return self.path


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    yield Brought(tmp_path, monkeypatch)
    sys.modules.pop("brought_net", None)


FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "zip, protocol 4": {"pickle_protocol": 4},
    "old": {"_use_new_zipfile_serialization": False},
    "old, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_the_class_is_named_and_not_imported(options: dict[str, Any], brought: Brought) -> None:
    path = brought.save(**options)
    assert READER.recognises(path)
    with pytest.raises(CheckpointError) as raised:
        READER.read(path, trust_pickle=False)
    assert str(raised.value) == (
        f"{path} holds a whole 'brought_net.Net', whose code would have to run to read it; save "
        "model.state_dict() with torch.save instead, or pass --trust-pickle, which runs any code "
        "in the file and is for files of your own only."
    )
    assert not brought.canary.exists()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_weights_are_read_where_the_file_is_trusted(
    options: dict[str, Any], brought: Brought
) -> None:
    state = brought.model.state_dict()
    checkpoint = READER.read(brought.save(**options), trust_pickle=True)
    assert checkpoint.form == "pickled module"
    assert checkpoint.aliases == {"tied.weight": "layers.0.weight"}
    assert {*checkpoint.weights, "tied.weight"} == set(state)
    for name, tensor in state.items():
        stored = checkpoint.weights[checkpoint.aliases.get(name, name)]
        assert torch.equal(stored.load(), tensor)
    assert brought.canary.exists()


@pytest.mark.parametrize("change", ["module", "class"])
def test_code_that_is_not_there_is_asked_for(change: str, brought: Brought) -> None:
    path = brought.save()
    source = path.parent / "brought_net.py"
    if change == "module":
        source.unlink()
    else:
        source.write_text("# nothing is left of it\n")
    with pytest.raises(CheckpointError, match=r"cannot be imported .*set PYTHONPATH"):
        READER.read(path, trust_pickle=True)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_modules_of_torch_are_recognised_too(tmp_path: Path) -> None:
    inside = nn.Sequential(nn.Linear(2, 2), Doubled())
    for model in (inside, nn.DataParallel(inside), fx.symbolic_trace(inside)):
        torch.save(model, tmp_path / "model.pt")
        assert READER.recognises(tmp_path / "model.pt")


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model.parameters())
    saved: list[Any] = [
        model.state_dict(),
        {"model": model, "epoch": 3},
        [model],
        optimizer,
        optimizer.state_dict(),
        torch.ones(3),
        nn.Parameter(torch.ones(3)),
        "_parameters _buffers _modules",
        {"_parameters": 1, "_buffers": 2, "_modules": 3},
        None,
    ]
    for value in saved:
        for options in FORMATS.values():
            torch.save(value, tmp_path / "other.pt", **options)
            assert not READER.recognises(tmp_path / "other.pt")
    script = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(script))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(3))
    (tmp_path / "zip.pt").write_bytes(b"PK\3\4" + bytes(100))
    for name in ("script.pt", "text.pt", "pickle.pt", "zip.pt", "missing", "."):
        assert not READER.recognises(tmp_path / name)


class Gadget:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
def test_looking_at_a_pickle_runs_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.own = Gadget(tmp_path / "canary")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model, tmp_path / "model.pt", **options)
    assert READER.recognises(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        READER.read(tmp_path / "model.pt", trust_pickle=False)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("twentieth", range(20))
def test_a_file_that_was_cut_is_refused(
    twentieth: int, options: dict[str, Any], tmp_path: Path
) -> None:
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(nn.Linear(20, 20), whole, **options)
    path = tmp_path / "cut.pt"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * twentieth // 20])
    READER.recognises(path)
    for trust in (False, True):
        with pytest.raises(CheckpointError):
            READER.read(path, trust_pickle=trust)


def test_recognising_damaged_files_raises_nothing(tmp_path: Path) -> None:
    random.seed(0)
    path = tmp_path / "damaged.pt"
    for options in FORMATS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(nn.Linear(2, 2), path, **options)
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(3):
                data[random.randrange(len(data))] = random.randrange(256)
            path.write_bytes(bytes(data))
            READER.recognises(path)


def test_tuples_in_tuples_without_end_overflow_nothing(tmp_path: Path) -> None:
    """Their hash, and their text, would need a deeper stack than the interpreter has."""
    deep = b"\x80\x02)" + b"\x85" * 500_000
    for use in (b"}\x940NK\1s.", b"c__main__\nNet\n\x94h\0R.", b"\x81X\x0b\0\0\0_parameters."):
        path = tmp_path / "deep.pt"
        path.write_bytes(deep + use)
        assert not READER.recognises(path)
