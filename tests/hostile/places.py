"""Folders whose files lead out of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.hostile.pickles import around, distributed, in_zip, state_dict
from tests.hostile.valid import FORMS, exported, zipped

__all__ = ["places"]

Write = Callable[[Path], Path]


def places(corpus: Path) -> Iterator[tuple[str, bool, Write]]:
    """What is wrong, whether it may be read for that, and how to write it.

    Args:
        corpus: in which a good checkpoint lies, ``outside``, that nobody must read.
    """
    outside = corpus / "outside"
    zipped(outside, around(state_dict(b"N")))
    (corpus / "outside-folder").mkdir(exist_ok=True)
    for name in ("file", "a" * 64):
        zipped(corpus / "outside-folder" / name, around(state_dict(b"N")))
    names: dict[str, object] = {
        "a path upwards": "../../outside",
        "an absolute path": str(outside),
        "a path through itself": "./../../outside",
        "a path of Windows": "..\\..\\outside",
        "a drive": "C:outside",
        "a URL": f"file://{outside}",
        "a password file": "/etc/passwd",
        "an endless device": "/dev/zero",
        "a device that waits": "/dev/stdin",
        "NUL": "\0",
        "nothing": "",
        "a point": ".",
        "two points": "..",
        "a name that is too long": "x" * 10_000,
        "half a character": "\ud800",
        "a missing file": "not-there",
        "terminal escapes": "\x1b[31m",
        "a number": 1,
        "a list": ["outside"],
        "no text": None,
    }
    for wrong, name in names.items():
        yield f"an index that names {wrong}", False, partial(_index, name=name)
        if isinstance(name, str):
            yield (
                f".metadata that names {wrong}",
                False,
                partial(distributed, chunk=in_zip(state_dict(b"N")), file=name),
            )
    saved = in_zip(state_dict(b"N"))
    for wrong, offset, length in (
        ("a place behind the end", len(saved), 10),
        ("a place before the beginning", -10, 10),
        ("a length beyond the end", 0, 1 << 40),
        ("no length", 0, 0),
        ("a place beyond 64 bits", 1 << 80, 10),
    ):

        def write(path: Path, offset: int = offset, length: int = length) -> Path:
            return distributed(path, saved, offset=offset, length=length)

        yield f".metadata that names {wrong}", False, write
    links = (
        ("sharded", "pytorch_model-00002-of-00002.bin"),
        ("sharded", "pytorch_model.bin.index.json"),
        ("trainer", "model.safetensors"),
        ("trainer", "optimizer.pt"),
        ("trainer", "trainer_state.json"),
        ("accelerate", "optimizer.bin"),
        ("accelerate", "model.safetensors"),
        ("distributed", ".metadata"),
        ("distributed", "__0_0.distcp"),
    )
    for form, file in links:
        yield f"{file} of {form} is a link out", False, _linked(form, file, outside)
        yield f"{file} of {form} is a link to itself", False, _linked(form, file, Path(file))
        yield f"{file} of {form} is a link to a device", False, _linked(form, file, "/dev/zero")
    for wrong, changed in {
        "blobs that are a link": {"blobs": "../outside-folder"},
        "a blob that is a link": {"blob": "../../../outside"},
        "a link to another place of blobs": {"link": "../../../../outside"},
        "a link to a blob of another name": {"name": "file"},
        "a link through blobs": {"link": "../../blobs/../../../outside"},
    }.items():
        yield f"a cache of Hugging Face with {wrong}", False, partial(_cache, **changed)
    for wrong, told in {
        "no weight_map": {},
        "a weight_map that is a list": {"weight_map": []},
        "an empty weight_map": {"weight_map": {}},
    }.items():
        yield f"an index with {wrong}", False, partial(_written, told=told)
    for wrong, place in {
        "a path": "../weight_0",
        "an entry that is missing": "x",
        "a number": 1,
    }.items():
        meta = {"w": {"path_name": place, "use_pickle": False, "tensor_meta": {}}}
        told = json.dumps({"config": meta}).encode()
        yield (
            f"an exported program that names {wrong}",
            False,
            partial(_listed, told=told),
        )


def _listed(path: Path, told: bytes) -> Path:
    return exported(path, **{"data/weights/model_weights_config.json": told})


def _index(folder: Path, name: object) -> Path:
    whole = FORMS["sharded"](folder)
    index = whole / "pytorch_model.bin.index.json"
    told = json.loads(index.read_text())
    told["weight_map"] = {**told["weight_map"], "w.weight": name}
    return _written(folder, told)


def _written(folder: Path, told: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(told))
    return folder


def _cache(
    path: Path, blobs: str = "", blob: str = "", name: str = "a" * 64, link: str = ""
) -> Path:
    """Of huggingface_hub: a snapshot whose files are links to blobs; what is given is a lie."""
    snapshot = path / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    if blobs:
        (path / "blobs").symlink_to(f"../{blobs}")
    else:
        (path / "blobs").mkdir()
        if blob:
            (path / "blobs" / name).symlink_to(blob)
        else:
            zipped(path / "blobs" / name, around(state_dict(b"N")))
    (snapshot / "config.json").write_text("{}")
    (snapshot / "pytorch_model.bin").symlink_to(link or f"../../blobs/{name}")
    return snapshot


def _linked(form: str, file: str, to: Path | str) -> Write:
    def write(path: Path) -> Path:
        whole = FORMS[form](path)
        (whole / file).unlink()
        (whole / file).symlink_to(to)
        return whole

    return write
