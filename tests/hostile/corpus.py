"""Writes hostile and broken checkpoints: ``python -m tests.hostile.corpus DIR``.

Nothing of it is ever run here. Whatever would run when a file is opened carelessly makes a file
``canary...`` in the folder, or removes what is in ``canary-kept`` there. The same folder has the
same bytes each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.gadgets import gadgets
from tests.hostile.headers import safetensors_lies, zip_lies
from tests.hostile.lies import pickle_lies
from tests.hostile.names import named_oddly
from tests.hostile.pickles import pickles
from tests.hostile.places import places
from tests.hostile.valid import FORMS

__all__ = ["Entry", "canaries", "write_corpus"]

_PARTS = 20


@dataclass(frozen=True)
class Entry:
    """One file or folder of the corpus.

    Attributes:
        path: of it.
        wrong: what is wrong with it.
        odd: whether it may as well be read, since it is strange and not dangerous.
    """

    path: Path
    wrong: str
    odd: bool = False


def write_corpus(folder: Path) -> list[Entry]:
    """Writes all of them, and ``corpus.json`` that lists them."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "canary-kept"
    kept.mkdir(exist_ok=True)
    (kept / "file").write_text("kept")
    entries = []
    for number, (wrong, odd, write) in enumerate(_all(folder)):
        place = folder / f"{number:04d}"
        place.mkdir()
        # In a folder of its own, so that nothing lies beside it that could be meant.
        entries.append(Entry(write(place / "saved"), wrong, odd))
    listed = [
        {"path": str(entry.path.relative_to(folder)), "wrong": entry.wrong, "odd": entry.odd}
        for entry in entries
    ]
    (folder / "corpus.json").write_text(json.dumps(listed, indent=1))
    return entries


def canaries(folder: Path) -> list[str]:
    """What has run, by the files that it made or removed."""
    made = [path.name for path in folder.glob("canary*") if path.name != "canary-kept"]
    kept = (folder / "canary-kept" / "file").is_file()
    return made if kept else [*made, "canary-kept was removed"]


Write = Callable[[Path], Path]


def _all(folder: Path) -> Iterator[tuple[str, bool, Write]]:
    calls = gadgets(str(folder / "canary"))
    yield from pickles(calls)
    yield from pickle_lies()
    yield from zip_lies()
    yield from safetensors_lies()
    yield from places(folder)
    yield from named_oddly()
    yield from _cut(folder)


def _cut(folder: Path) -> Iterator[tuple[str, bool, Write]]:
    """Every format without its end, at each twentieth; of a folder, the file that matters."""
    parts = {
        "zip": ".",
        "legacy": ".",
        "module": ".",
        "safetensors": ".",
        "exported": ".",
        "sharded": "pytorch_model.bin.index.json",
        "trainer": "optimizer.pt",
        "accelerate": "optimizer.bin",
        "distributed": ".metadata",
    }
    chunks = ("distributed", "__0_0.distcp"), ("sharded", "pytorch_model-00002-of-00002.bin")
    for form, part in (*parts.items(), *chunks):
        for twentieth in range(_PARTS):

            def write(path: Path, form: str = form, part: str = part, at: int = twentieth) -> Path:
                whole = FORMS[form](path)
                file = whole / part if whole.is_dir() else whole
                data = file.read_bytes()
                file.write_bytes(data[: len(data) * at // _PARTS])
                return whole

            told = form if part == "." else f"{part} of {form}"
            yield f"{told} is cut at {twentieth}/{_PARTS}", False, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty or new folder")
    folder = parser.parse_args().folder
    entries = write_corpus(folder)
    sys.stdout.write(
        f"{len(entries)} hostile or broken checkpoints in {folder}; see corpus.json there.\n"
    )


if __name__ == "__main__":
    main()
