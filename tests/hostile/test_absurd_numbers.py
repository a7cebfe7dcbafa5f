"""Numbers that no training has, in files that are otherwise right."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.errors import CheckpointError
from gradscope.pipeline import scan_checkpoint


@pytest.mark.parametrize("place", ["step", "lr", "global_step"])
def test_whole_numbers_that_are_no_floats(tmp_path: Path, place: str) -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    weight.grad = torch.randn(4, 4)
    optimizer.step()
    saved: dict[str, Any] = {"model": {"weight": weight}, "optimizer": optimizer.state_dict()}
    if place == "step":
        saved["optimizer"]["state"][0]["step"] = 10**400
    elif place == "lr":
        saved["optimizer"]["param_groups"][0]["lr"] = 10**400
    else:
        saved["global_step"] = 10**6000
    torch.save(saved, tmp_path / "saved.pt")
    report = scan_checkpoint(tmp_path / "saved.pt")
    assert report.profile is not None
    stored = report.profile.stored
    assert stored is not None
    assert stored.step == (None if place == "step" else 1)


def test_a_shape_without_elements_and_without_end(tmp_path: Path) -> None:
    header = {
        "good": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "none": {"dtype": "F32", "shape": [0] + [2**62] * 60, "data_offsets": [16, 16]},
    }
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + torch.ones(4).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    report = scan_checkpoint(tmp_path / "model.safetensors")
    assert report.target.parameters == 4
    assert "none" in {each.what for each in report.skipped}


def test_notes_without_end(tmp_path: Path) -> None:
    """A byte of a pickle makes an entry of a dict."""
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as source,
        zipfile.ZipFile(tmp_path / "bad.pt", "w") as target,
    ):
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = data[:-1] + b"\x94" * 8_000_000 + b"."
            target.writestr(entry.filename, data)
    with pytest.raises(CheckpointError, match="was not read"):
        scan_checkpoint(tmp_path / "bad.pt")
