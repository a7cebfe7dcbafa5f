"""Whether ``torch.export.load`` would run code that a file brings with it.

It runs what it finds in more places than pickles: expressions of sizes are evaluated as Python,
names of values become the source of a function that is compiled, trees of arguments may name
modules to import, and guards are compiled when the program is first called. So all texts of the
program have to be names and nothing else; a program that needs more is not called safe, although
it may be.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch

from gradscope.checkpoints.pickles.inert_pickle import Global, NotInert, read_inert
from gradscope.checkpoints.pickles.known_names import DTYPES, STORAGES

__all__ = ["why_unsafe"]

_NAME: Final = re.compile(r"[A-Za-z0-9_.]*")
_EXPRESSION: Final = re.compile(
    r"(?!.*\*\*)"
    r"(Symbol\('[su][0-9]{1,9}'(, (positive|nonnegative|integer)=(True|False)){0,3}\)"
    r"|(Add|Mul|Integer|FloorDiv|Max|Min)\(|(?>[su]?[0-9]{1,9})(?![0-9])|[-+*(), ])+"
)
"""Sizes such as ``2*s77 + 1``, which sympy evaluates as Python: all of it but powers."""

_NOTES: Final = frozenset(
    {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"}
)
"""What ``metadata`` holds: texts for people, and JSON, of which nothing is evaluated."""

_OPERATORS: Final = ("torch.ops.aten.", "torch.ops.prims.", "torch.ops.higher_order.", "_operator.")
_FILES: Final = "from_file"
"""The operator of aten that opens a file of any name."""

_TREES: Final = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_PICKLED: Final = frozenset(
    {
        *(Global("torch._utils", f"_rebuild_{name}") for name in ("tensor_v2", "tensor_v3")),
        Global("torch._utils", "_rebuild_parameter"),
        Global("collections", "OrderedDict"),
        Global("torch", "Size"),
        *STORAGES,
        *DTYPES,
    }
)


def why_unsafe(path: Path) -> str | None:
    """Why ``torch.export.load`` may run code of a file; None if it does not.

    It looks at the bytes that torch's own reader finds, and knows the layout of torch 2.9 to 2.13.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return "it has compressed entries"
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        return _reason(reader, names)
    except Exception as error:
        # Whatever keeps this from being read, it is no reason to have torch.export try.
        return f"it cannot be read ({type(error).__name__})"


def _reason(reader: Any, names: list[str]) -> str | None:
    if "archive_format" not in names:
        return "it was written before torch 2.8"
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder.startswith("data/aotinductor"):
            return f"it has compiled code ({name:.100})"
        if folder == "data/constants" and not (_is_raw(file) or file.endswith((".json", ".pt"))):
            return f"it has an object of its own ({name:.100})"
        if name.startswith("models/"):
            reason = _program_reason(json.loads(reader.get_record(name)))
        elif folder in ("data/weights", "data/constants") and file.endswith("_config.json"):
            reason = _listed_reason(json.loads(reader.get_record(name)))
        elif file.endswith(".pt") and folder.startswith("data/"):
            reason = _pickle_reason(name, reader.get_record(name))
        else:
            reason = None
        if reason is not None:
            return reason
    return None


def _listed_reason(listed: dict[str, Any]) -> str | None:
    for name, item in listed["config"].items():
        if item["use_pickle"] is not False or not _is_raw(item["path_name"]):
            return f"its tensor {name:.100} is a pickle"
    return None


def _is_raw(file: str) -> bool:
    return re.fullmatch(r"(weight|tensor)_\d+", file) is not None


def _pickle_reason(name: str, saved: bytes) -> str | None:
    """torch.export unpickles freely what it cannot unpickle safely."""
    if not saved:
        return None
    if saved[:4] != b"PK\3\4":
        return f"{name:.100} in it was not written by torch.save"
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            return f"{name:.100} in it has compressed entries"
    inside = torch._C.PyTorchFileReader(io.BytesIO(saved))
    if "constants.pkl" in inside.get_all_records():
        return f"{name:.100} in it is a TorchScript program"
    try:
        read_inert(inside.get_record("data.pkl"), _PICKLED)
    except NotInert as error:
        return f"{name:.100} in it has {error}"
    return None


def _program_reason(program: dict[str, Any]) -> str | None:
    if program.get("guards_code"):
        return "it has guards, which are compiled"
    pending: list[tuple[str, Any]] = [("", program)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            if key == "metadata" and _are_plain(value.values()) and value.keys() <= _NOTES:
                continue
            pending.extend(value.items())
            pending.extend(("", name) for name in value)
        elif isinstance(value, list):
            pending.extend((key, item) for item in value)
        elif isinstance(value, str) and not _is_harmless(key, value):
            return f"its {key or 'name'} {value!r:.100} is more than a name"
    return None


def _is_harmless(key: str, text: str) -> bool:
    if key in ("as_string", "as_strings", "torch_version"):
        return True  # These are written into the program as literals, or not at all.
    if key == "expr_str":
        return _EXPRESSION.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        return _is_harmless_tree(text)
    if _NAME.fullmatch(text) is None:
        return False
    if key in ("target", "as_operator"):
        return text.startswith(_OPERATORS) and _FILES not in text
    return True


def _is_harmless_tree(text: str) -> bool:
    """Whether a tree of arguments has dicts, lists and tuples alone."""
    read = json.loads(text)
    pending: list[Any] = list(read[1:])
    while pending:
        tree = pending.pop()
        if tree["type"] not in _TREES:
            return False
        context = tree["context"]
        keys = json.loads(context) if isinstance(context, str) else context
        if keys is not None and not (isinstance(keys, list) and _are_plain(keys)):
            return False
        pending.extend(tree["children_spec"])
    return True


def _are_plain(keys: Iterable[Any]) -> bool:
    return all(isinstance(key, str | int) for key in keys)
