"""Indexes that lead elsewhere, and files that are no checkpoints."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from gradscope.checkpoints import open_checkpoint
from gradscope.errors import CheckpointError
from tests.gradscope.checkpoints.crooked import refusal, zipped
from tests.gradscope.checkpoints.trained import trained


@pytest.fixture
def index(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes an index beside one shard of one tensor; outside of its folder lies another one."""
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder, tmp_path):
        torch.save({"w.weight": torch.ones(2)}, place / "shard.bin")

    def write(places: dict[str, Any]) -> Path:
        (folder / "weights.json").write_text(json.dumps({"weight_map": places}))
        return folder / "weights.json"

    return write


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        ("../shard.bin", "is not the plain name of a file beside it"),
        ("/etc/passwd", "is not the plain name"),
        ("..", "is not the plain name"),
        ("", "is not the plain name"),
        ("..\\shard.bin", "is not the plain name"),
        ("shard.bin\0", "is not the plain name"),
        ("missing.bin", "names 'missing.bin', which is not beside it; copy it too"),
        ("x" * 5000, "which is not beside it"),
        (5, "lies in 5, which is no file name"),
        ("link.bin", "which is a link out of"),
    ],
)
def test_indexes_that_lead_elsewhere(index: Any, shard: Any, told: str) -> None:
    path = index({"w.weight": shard})
    (path.parent / "link.bin").symlink_to(path.parent.parent / "shard.bin")
    assert told in refusal(path)


def test_indexes_that_are_not_true(index: Any) -> None:
    assert list(open_checkpoint(index({"w.weight": "shard.bin"})).weights) == ["w.weight"]
    told = "says that 'v.weight' lies in shard.bin, where it is not"
    assert told in refusal(index({"w.weight": "shard.bin", "v.weight": "shard.bin"}))
    path = index({"v.weight": "other.bin"})
    torch.save({"v.weight": torch.ones(1), "u": torch.ones(1)}, path.parent / "other.bin")
    assert "other.bin holds 'u', which weights.json does not say" in refusal(path)
    assert "has no weight_map of names to files" in refusal(index({}))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "optimizer.pt"])
def test_links_out_of_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save(trained()[0].state_dict(), tmp_path / "outside")
    if name == "optimizer.pt":
        torch.save(trained()[0].state_dict(), folder / "pytorch_model.bin")
    (folder / name).symlink_to(tmp_path / "outside")
    assert f"names {name!r}, which is a link out of" in refusal(folder)


BLOB = "0123456789abcdef" * 4
REVISION = "f" * 40


def hub(tmp_path: Path, to: str = f"../../blobs/{BLOB}", snapshots: str = "snapshots") -> Path:
    """A snapshot as huggingface_hub keeps it; its weights are a link."""
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot = tmp_path / "models--a--b" / snapshots / REVISION
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    torch.save(trained()[0].state_dict(), blobs / BLOB)
    torch.save({"secret.weight": torch.ones(2)}, tmp_path / BLOB)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "pytorch_model.bin").symlink_to(to)
    return snapshot


def test_a_snapshot_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    snapshot = hub(tmp_path)
    blobs = tmp_path / "models--a--b" / "blobs"
    torch.save(trained()[1].state_dict(), blobs / ("a" * 40))
    (snapshot / "optimizer.pt").symlink_to(f"../../blobs/{'a' * 40}")
    checkpoint = open_checkpoint(snapshot)
    assert "body.0.weight" in checkpoint.weights
    assert checkpoint.optimizers[0].kind == "AdamW"
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert open_checkpoint(link).weights.keys() == checkpoint.weights.keys()


def test_shards_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    snapshot = hub(tmp_path)
    (snapshot / "pytorch_model.bin").rename(snapshot / "shard.bin")
    places = dict.fromkeys(trained()[0].state_dict(), "shard.bin")
    index = tmp_path / "models--a--b" / "blobs" / ("b" * 64)
    index.write_text(json.dumps({"weight_map": places}))
    (snapshot / "pytorch_model.bin.index.json").symlink_to(f"../../blobs/{'b' * 64}")
    assert "body.0.weight" in open_checkpoint(snapshot).weights
    assert "body.0.weight" in open_checkpoint(snapshot / "pytorch_model.bin.index.json").weights
    # The index may not lead anywhere else, though it lies there itself.
    index.write_text(json.dumps({"weight_map": dict.fromkeys(places, f"../../blobs/{BLOB}")}))
    assert "is not the plain name of a file beside it" in refusal(snapshot)


@pytest.mark.parametrize(
    "to",
    [
        f"../../../{BLOB}",
        f"../../../models--a--b/blobs/{BLOB}",
        f"../../blobs/../blobs/{BLOB}",
        f"../../blobs/../../{BLOB}",
        "{absolute}",
        "../../blobs/weights",
        "../../blobs/chain",
        f"../../blobs/{'c' * 64}",
        f"../../blobs/{BLOB[:8]}",
    ],
)
def test_links_that_only_look_like_that_cache(tmp_path: Path, to: str) -> None:
    absolute = tmp_path / "models--a--b" / "blobs" / BLOB
    snapshot = hub(tmp_path, to.format(absolute=absolute))
    for name in ("weights", BLOB[:8]):
        absolute.with_name(name).write_bytes(absolute.read_bytes())
    for name in ("chain", "c" * 64):
        absolute.with_name(name).symlink_to(tmp_path / BLOB)
    assert "names 'pytorch_model.bin', which is a link out of" in refusal(snapshot)
    (snapshot / "config.json").unlink()
    assert "secret.weight" not in refusal(snapshot)


def test_a_cache_of_hugging_face_that_lies_elsewhere(tmp_path: Path) -> None:
    """Blobs that are a link, or a folder of snapshots of another name."""
    snapshot = hub(tmp_path / "one", snapshots="revisions")
    assert "which is a link out of" in refusal(snapshot)
    snapshot = hub(tmp_path / "two")
    blobs = tmp_path / "two" / "models--a--b" / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert "which is a link out of" in refusal(snapshot)


def test_what_a_link_leads_to_is_not_even_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    outside = tmp_path / "outside"
    torch.save({"w": torch.ones(2)}, outside)
    (folder / "a.pt").symlink_to(outside)
    (folder / "b").symlink_to(outside)
    opened: list[Path] = []
    real = Path.open

    def watched(self: Path, *given: Any, **more: Any) -> Any:
        opened.append(self.resolve())
        return real(self, *given, **more)

    monkeypatch.setattr(Path, "open", watched)
    assert "names 'a.pt', which is a link out of" in refusal(folder)
    assert outside.resolve() not in opened


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_that_was_cut_off(tmp_path: Path) -> None:
    save(trained()[0].state_dict(), checkpoint_id=tmp_path / "a", no_dist=True)
    (part,) = (tmp_path / "a").glob("*.distcp")
    assert "is one part of a torch.distributed.checkpoint; give the folder" in refusal(part)
    (tmp_path / "a" / ".metadata").unlink()
    told = "without its .metadata, which is written last: saving was cut off"
    assert told in refusal(tmp_path / "a")
    assert told in refusal(part)
    # Also where a part by itself could be read.
    torch.save({"w.weight": torch.ones(2)}, part)
    assert told in refusal(tmp_path / "a")


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def written(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


LOOKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (written(b""), "is empty; copy or save it again"),
    "page": (written(b"<!DOCTYPE html>\n<html>"), "is a web page"),
    "lfs": (written(b"version https://git-lfs.github.com/spec/v1\noid"), "with git lfs pull"),
    "pickle": (written(pickle.dumps({"a": 1})), "is a pickle that torch.save did not write"),
    "tar": (tar, "is a tar archive; unpack it"),
    "gzip": (written(b"\x1f\x8b\x08\0"), "is compressed by gzip; unpack it with gunzip"),
    "hdf5": (written(b"\x89HDF\r\n\x1a\n\0"), "is an HDF5 file, as Keras writes them"),
    "onnx": (written(b"\x08\x08\x12\x07pytorch\x1a"), "is an ONNX model"),
    "gguf": (written(b"GGUF\3\0\0\0"), "is a GGUF file, whose weights are quantised"),
    "npz": (lambda path: zipped(path, {"a.npy": b""}), "is a NumPy .npz file; save its arrays"),
    "npy": (written(b"\x93NUMPY\1\0"), "is a NumPy array"),
    "zip": (lambda path: zipped(path, {"a.txt": b""}), "is a zip file that torch.save did not"),
    "json": (written(b'{"a": 1}'), "is a JSON file without weights"),
    "text": (written(b"import torch\n"), "is a text file"),
    "noise": (written(bytes(range(200, 256))), "is no checkpoint that is known"),
}


@pytest.mark.parametrize("what", LOOKS)
def test_what_a_file_looks_like(tmp_path: Path, what: str) -> None:
    write, told = LOOKS[what]
    write(tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert message.startswith(str(tmp_path / "a.pt"))
    assert told in message


def test_paths_of_nothing(tmp_path: Path) -> None:
    assert "does not exist; give the path of a checkpoint" in refusal(tmp_path / "missing")
    assert "holds no checkpoint that is known" in refusal(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "is neither a file nor a folder" in refusal(tmp_path / "pipe")
    assert "holds no checkpoint that is known" in refusal(tmp_path)
