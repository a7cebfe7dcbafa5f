from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradscope.checkpoints.formats.exported_program_safety import why_unsafe

PROGRAM = "models/model.json"
INPUTS = "data/sample_inputs/model.pt"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.cat([self.layer(x), self.layer(x)]).relu()
        return out


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fixed") / "net.pt2"
    torch.export.save(torch.export.export(Net(), (torch.randn(2, 3),)), path)
    return path


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "net.pt2"
    batch = torch.export.Dim("batch")
    program = torch.export.export(Net(), (torch.randn(2, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path


def test_plain_programs_are_safe(fixed: Path, dynamic: Path) -> None:
    assert why_unsafe(fixed) is None
    assert why_unsafe(dynamic) is None


def test_other_files_are_not_safe(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt")
    for name in ("text", "weights.pt", "missing", "."):
        assert why_unsafe(tmp_path / name) is not None


def changed(source: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    writer = torch._C.PyTorchFileWriter(str(path))
    with zipfile.ZipFile(source) as archive:
        for full in archive.namelist():
            name = full.partition("/")[2]
            if name in ("byteorder", ".data/version", ".data/serialization_id"):
                continue
            data = change(name, archive.read(full))
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return path


def in_program(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != PROGRAM:
            return data
        assert old.encode() in data
        return data.replace(old.encode(), new.encode())

    return change


def in_tree(tree: dict[str, Any]) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name != PROGRAM:
            return data
        program = json.loads(data)
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        read = json.loads(signature["in_spec"])
        read[1]["children_spec"][0]["children_spec"][0] = tree
        signature["in_spec"] = json.dumps(read)
        return json.dumps(program).encode()

    return change


class Gadget:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def as_inputs(value: object) -> Callable[[str, bytes], bytes]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return lambda name, data: buffer.getvalue() if name == INPUTS else data


def load(path: Path) -> None:
    """What ``torch.export.load`` says about it is of no interest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(path)
            program.module()(torch.randn(2, 3))
        except Exception:
            return


def test_a_name_that_is_code(fixed: Path, tmp_path: Path) -> None:
    """That each of these runs is why torch.export.load is used for nothing."""
    canary = tmp_path / "canary"
    code = f"__import__('os').system('touch {canary}')"
    path = changed(fixed, tmp_path / "name.pt2", in_program('"x"', f'"x={code}"'))
    assert "more than a name" in str(why_unsafe(path))
    load(path)
    assert canary.exists()


def test_a_size_that_is_code(dynamic: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"__import__('os').system('touch {canary}') or "
    change = in_program('"expr_str": "', f'"expr_str": "{code}')
    path = changed(dynamic, tmp_path / "size.pt2", change)
    assert "expr_str" in str(why_unsafe(path))
    load(path)
    assert canary.exists()


def test_inputs_that_are_code(fixed: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = changed(fixed, tmp_path / "inputs.pt2", as_inputs(((Gadget(canary),), {})))
    assert "system" in str(why_unsafe(path))
    load(path)
    assert canary.exists()


def test_guards_that_are_code(fixed: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    guard = json.dumps([f"__import__('os').system('touch {canary}')"])
    change = in_program('"guards_code": []', f'"guards_code": {guard}')
    path = changed(fixed, tmp_path / "guards.pt2", change)
    assert "guards" in str(why_unsafe(path))
    load(path)
    assert canary.exists()


def test_arguments_that_import_a_module(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "brought_along.py").write_text(f"open({str(canary)!r}, 'w').close()\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    context = {
        "default_factory_module": "brought_along",
        "default_factory_name": "x",
        "dict_context": [],
    }
    tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    path = changed(fixed, tmp_path / "tree.pt2", in_tree(tree))
    assert "in_spec" in str(why_unsafe(path))
    load(path)
    assert canary.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.ops.aten.linear.default", "torch.os.system"),
        ("torch.ops.aten.linear.default", "torch.ops.aten.from_file.default"),
        ('"tensor_values": {', '"tensor_values": {"metadata": {"as_expr": {"expr_str": "f()"}}, '),
        ('"metadata": {', '"metadata": {"more": {"expr_str": "f()"}, '),
        ('"name": "linear"', '"name": "linear\\nimport os"'),
    ],
)
def test_other_texts_that_are_no_names(old: str, new: str, fixed: Path, tmp_path: Path) -> None:
    assert why_unsafe(changed(fixed, tmp_path / "bad.pt2", in_program(old, new))) is not None


@pytest.mark.parametrize(
    ("kind", "context"),
    [("builtins.tuple", '{"__enum__": true, "fqn": "os:x", "name": "y"}'), ("other.Class", "null")],
)
def test_other_trees(kind: str, context: str, fixed: Path, tmp_path: Path) -> None:
    tree = {"type": kind, "context": context, "children_spec": []}
    assert why_unsafe(changed(fixed, tmp_path / "bad.pt2", in_tree(tree))) is not None


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/x.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
    ],
)
def test_other_entries(name: str, fixed: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.pt2"
    path.write_bytes(fixed.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/{name}", b"x")
    assert why_unsafe(path) is not None


def test_inputs_in_another_format(fixed: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((), {}), buffer, _use_new_zipfile_serialization=False)
    path = changed(
        fixed,
        tmp_path / "old.pt2",
        lambda name, data: buffer.getvalue() if name == INPUTS else data,
    )
    assert "not written by torch.save" in str(why_unsafe(path))
