from __future__ import annotations

import io
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._export.serde.schema import SCHEMA_VERSION
from torch._export.serde.serialize import serialize
from torch.export import ExportedProgram

from gradscope.checkpoints.checkpoint import Checkpoint
from gradscope.checkpoints.formats.exported_program import ExportedProgramReader
from gradscope.errors import CheckpointError

READER = ExportedProgramReader()
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


class Net(nn.Module):
    """Weights that are tied, strided, of other types, of no element, and not in the state_dict."""

    columns: Tensor
    count: Tensor
    hidden: Tensor
    nothing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(3, 4)
        self.second.weight = self.first.weight
        self.narrow = nn.Parameter(torch.randn(2).bfloat16())
        self.register_buffer("columns", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("nothing", torch.zeros(0, 3))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.constant = torch.full((3,), 7.0)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.first(x).sum() + self.second(x).sum() + self.narrow.float().sum()
        buffers = self.columns.sum() + self.hidden.sum() + self.count
        total: Tensor = layers + buffers + self.constant.sum()
        return total


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Net(), (torch.randn(2, 3),))


@pytest.fixture(scope="module")
def sound(program: ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the buffer that is not contiguous
        torch.export.save(program, path)
    return path


def live(program: ExportedProgram) -> dict[str, Tensor]:
    tensors = {**program.state_dict, **program.constants}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def read(path: Path) -> Checkpoint:
    assert READER.recognises(path)
    return READER.read(path, trust_pickle=False)


def read_all(path: Path) -> None:
    for stored in READER.read(path, trust_pickle=False).weights.values():
        stored.load()


def assert_holds(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    assert checkpoint.form == "exported program"
    assert checkpoint.weights.keys() | checkpoint.aliases.keys() == tensors.keys()
    assert checkpoint.aliases == {"second.weight": "first.weight"}
    for name, tensor in tensors.items():
        stored = checkpoint.weights[checkpoint.aliases.get(name, name)]
        loaded = stored.load()
        assert stored.shape == loaded.shape == tensor.shape
        assert stored.dtype == loaded.dtype == tensor.dtype
        assert torch.equal(loaded, tensor)
        if tensor.numel():
            assert loaded.stride() == tensor.stride()


def test_the_weights_are_read_as_they_were(program: ExportedProgram, sound: Path) -> None:
    checkpoint = read(sound)
    assert_holds(checkpoint, live(program))
    assert checkpoint.skipped == ()
    assert not checkpoint.optimizers


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_the_layout_of_torch_2_8_is_read(
    program: ExportedProgram, sound: Path, tmp_path: Path
) -> None:
    old = {
        WEIGHTS: ("data/weights/model.pt", saved(dict(program.state_dict))),
        CONSTANTS: ("data/constants/model.pt", saved(dict(program.constants))),
    }
    path = rewritten(sound, tmp_path / "old.pt2", lambda name, data: old.get(name, (name, data)))
    assert_holds(read(path), live(program))


def test_the_layout_before_torch_2_8_is_read(program: ExportedProgram, tmp_path: Path) -> None:
    artifact = serialize(program)
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", artifact.exported_program)
        archive.writestr("serialized_state_dict.pt", artifact.state_dict)
        archive.writestr("serialized_constants.pt", artifact.constants)
        archive.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
    assert_holds(read(path), live(program))


def test_several_programs_of_an_archive_keep_their_names(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.pt2"
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in entries(sound).items():
        for model in ("model", "other"):
            if "model" in name or model == "model":
                put(
                    writer, name.replace("model_", f"{model}_").replace("model.", f"{model}."), data
                )
    writer.write_end_of_file()
    weights = read(path).weights
    assert "model.first.weight" in weights
    assert "other.first.weight" in read(path).aliases or "other.first.weight" in weights


def test_weights_that_were_not_saved_are_said_to_be_missing(sound: Path, tmp_path: Path) -> None:
    """A program that was exported with fake tensors has none."""
    path = rewritten(
        sound,
        tmp_path / "fake.pt2",
        lambda name, data: (name, b"" if name == "data/weights/weight_0" else data),
    )
    (skipped,) = read(path).skipped
    assert "not saved" in skipped.reason
    assert skipped.what not in read(path).weights


def test_objects_are_left_out(sound: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["const"] = {"path_name": "custom_obj_0", "use_pickle": True, "tensor_meta": None}

    path = reconfigured(sound, tmp_path / "own.pt2", CONSTANTS, change, {"custom_obj_0": b"xyz"})
    assert [skipped.what for skipped in read(path).skipped] == ["const"]


def test_a_pickled_tensor_is_read_without_unpickling(sound: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["own"] = {"path_name": "tensor_9", "use_pickle": True, "tensor_meta": None}

    tensor = torch.randn(3, 2)
    files = {"tensor_9": saved(nn.Parameter(tensor))}
    path = reconfigured(sound, tmp_path / "own.pt2", CONSTANTS, change, files)
    assert torch.equal(read(path).weights["own"].load(), tensor)


def test_other_files_are_not_recognised(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(2)}, weights)
    script = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(script))
    (tmp_path / "text.pt2").write_text("hello")
    for path in (weights, script, tmp_path / "text.pt2", tmp_path, tmp_path / "missing"):
        assert not READER.recognises(path)


def test_compiled_code_without_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compiled.pt2"
    writer = torch._C.PyTorchFileWriter(str(path))
    put(writer, "archive_format", b"pt2")
    put(writer, "data/aotinductor/model/x.wrapper.so", b"\x7fELF")
    writer.write_end_of_file()
    assert READER.recognises(path)
    with pytest.raises(CheckpointError, match="compiled code"):
        READER.read(path, trust_pickle=True)


# --- Files that lie ---------------------------------------------------------------------------


def entries(path: Path) -> dict[str, bytes]:
    written_by_itself = ("byteorder", ".data/version", ".data/serialization_id")
    with zipfile.ZipFile(path) as archive:
        named = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    return {name: data for name, data in named.items() if name not in written_by_itself}


def put(writer: Any, name: str, data: bytes) -> None:
    writer.write_record(name, data, len(data))


def rewritten(source: Path, path: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in entries(source).items():
        put(writer, *change(name, data))
    writer.write_end_of_file()
    return path


def reconfigured(
    source: Path,
    path: Path,
    listed: str,
    change: Callable[[dict[str, Any]], object],
    files: dict[str, bytes] | None = None,
) -> Path:
    found = entries(source)
    config = json.loads(found[listed])
    change(config["config"])
    found[listed] = json.dumps(config).encode()
    for name, data in (files or {}).items():
        found[listed.rpartition("/")[0] + "/" + name] = data
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in found.items():
        put(writer, name, data)
    writer.write_end_of_file()
    return path


def meta(**changed: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        config["first.bias"]["tensor_meta"].update(changed)

    return change


@pytest.mark.parametrize(
    "changed",
    [
        {"sizes": [{"as_int": 5}]},
        {"sizes": [{"as_int": 10**15}]},
        {"sizes": [{"as_int": -4}]},
        {"sizes": [{"as_int": 2**63}]},
        {"sizes": [{"as_expr": {"expr_str": "__import__('os').abort()"}}]},
        {"sizes": "4"},
        {"sizes": None},
        {"sizes": [4]},
        {"sizes": [{"as_int": 4}, {"as_int": 1}]},
        {"sizes": [{"as_int": 2**40}], "strides": [{"as_int": 0}]},
        {"sizes": [{"as_int": 0}, {"as_int": 2**62}, {"as_int": 2**62}], "strides": [{}] * 3},
        {"strides": [{"as_int": 2}]},
        {"strides": [{"as_int": 10**15}]},
        {"strides": [{"as_int": -1}]},
        {"strides": []},
        {"storage_offset": {"as_int": 1}},
        {"storage_offset": {"as_int": -1}},
        {"storage_offset": {"as_int": 10**15}},
        {"storage_offset": None},
        {"dtype": 8},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_lie_in_its_bytes_is_refused(
    changed: dict[str, Any], sound: Path, tmp_path: Path
) -> None:
    path = reconfigured(sound, tmp_path / "lies.pt2", WEIGHTS, meta(**changed))
    with pytest.raises(CheckpointError, match=r"'first\.bias'"):
        read(path)


@pytest.mark.parametrize("dtype", [0, 99, "7", None, [7]])
def test_a_type_that_is_not_known_is_said(dtype: Any, sound: Path, tmp_path: Path) -> None:
    path = reconfigured(sound, tmp_path / "lies.pt2", WEIGHTS, meta(dtype=dtype))
    assert [skipped.what for skipped in read(path).skipped] == ["first.bias"]


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "", "weight_99", 7, None])
def test_bytes_elsewhere_are_refused(name: Any, sound: Path, tmp_path: Path) -> None:
    path = reconfigured(
        sound,
        tmp_path / "lies.pt2",
        WEIGHTS,
        lambda config: config["first.bias"].update(path_name=name),
    )
    with pytest.raises(CheckpointError, match=r"'first\.bias'"):
        read(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"config": []}', b'{"config": {"w": 1}}', b"[" * 100_000, b"\xff"],
    ids=range(7),
)
def test_a_list_that_is_none_is_refused(data: bytes, sound: Path, tmp_path: Path) -> None:
    path = rewritten(
        sound, tmp_path / "lies.pt2", lambda name, old: (name, data if name == WEIGHTS else old)
    )
    with pytest.raises(CheckpointError, match="cannot be read as an exported program"):
        read(path)


@pytest.mark.parametrize("twentieth", range(20))
def test_a_file_that_was_cut_is_refused(twentieth: int, sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    data = sound.read_bytes()
    path.write_bytes(data[: len(data) * twentieth // 20])
    assert not READER.recognises(path)
    with pytest.raises(CheckpointError):
        READER.read(path, trust_pickle=False)


def test_damaged_bytes_are_read_or_refused(sound: Path, tmp_path: Path) -> None:
    random.seed(0)
    whole = sound.read_bytes()
    path = tmp_path / "damaged.pt2"
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(random.randrange(1, 6)):
            data[random.randrange(len(data))] = random.randrange(256)
        path.write_bytes(bytes(data))
        READER.recognises(path)
        try:
            read_all(path)
        except CheckpointError:
            continue


class Gadget:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_nothing_in_a_pickle_runs(program: ExportedProgram, sound: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    state = {**program.state_dict, "extra": Gadget(canary)}

    def with_gadget(name: str, data: bytes) -> tuple[str, bytes]:
        if name == WEIGHTS:
            return "data/weights/model.pt", saved(state)
        if name == "data/sample_inputs/model.pt":
            return name, saved(Gadget(canary))
        return name, data

    checkpoint = read(rewritten(sound, tmp_path / "bad.pt2", with_gadget))
    assert [skipped.what for skipped in checkpoint.skipped] == ["extra"]
    assert not canary.exists()

    bare = rewritten(
        sound,
        tmp_path / "bare.pt2",
        lambda name, data: (
            ("data/weights/model.pt", saved(Gadget(canary))) if name == WEIGHTS else (name, data)
        ),
    )
    with pytest.raises(CheckpointError, match="no dict of tensors"):
        read(bare)
    assert not canary.exists()


def test_compressed_entries_are_not_inflated(sound: Path, tmp_path: Path) -> None:
    """A bomb of zeros would become a thousand times as long; torch compresses no weights."""
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries(sound).items():
            long = bytes(2**26) if name == "data/weights/weight_1" else data
            archive.writestr(
                f"net/{name}", long, None if name.endswith("weight_1") else zipfile.ZIP_STORED
            )
    with pytest.raises(CheckpointError, match="are not in it"):
        read(path)
