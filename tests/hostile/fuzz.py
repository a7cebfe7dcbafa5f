"""Damages valid checkpoints at random and opens them: ``python -m tests.hostile.fuzz``.

Whatever is in a file, it is read, or refused by a CheckpointError, in a few seconds and without
much memory. Everything else is a fault, which is printed, and of which the file is kept.
"""

from __future__ import annotations

import argparse
import io
import random
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.hostile.reading import Answer, Opener
from tests.hostile.valid import FORMS

__all__ = ["Findings", "damaged", "fuzz"]

_PLACES: Final = 20
_SECONDS: Final = 5.0
_GRACE: Final = 15.0
"""What takes longer than the limit is a fault; only after these seconds it counts as a hang."""


@dataclass(frozen=True)
class _Sample:
    """A valid checkpoint, and those of its files that are damaged."""

    form: str
    path: Path
    files: tuple[Path, ...]


@dataclass
class Findings:
    """What came of it.

    Attributes:
        outcomes: how many, by form and outcome.
        faults: what is wrong, by what it is, with the first file that shows it.
        counts: how often each fault was seen.
        slowest: seconds.
        memory: bytes that one file took at most.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: dict[str, Path] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int = 0

    def add(self, form: str, answer: Answer, file: Path, keep: Path) -> None:
        self.outcomes[form, answer.outcome] += 1
        self.slowest = max(self.slowest, answer.seconds)
        self.memory = max(self.memory, answer.memory)
        wrong = answer.wrong(_SECONDS)
        if not wrong:
            return
        # The place alone says what fault it is; the message has numbers that vary.
        key = f"{form}: {answer.outcome} at {answer.where}" if answer.where else f"{form}: {wrong}"
        self.counts[key] += 1
        if key not in self.faults:
            keep.mkdir(parents=True, exist_ok=True)
            kept = keep / f"{len(self.faults)}-{file.name}"
            (shutil.copytree if file.is_dir() else shutil.copy)(file, kept)
            self.faults[key] = kept
            sys.stdout.write(f"{wrong}\n    {kept}\n")
            sys.stdout.flush()

    def join(self, other: Findings) -> None:
        self.outcomes += other.outcomes
        self.counts += other.counts
        self.faults = {**other.faults, **self.faults}
        self.slowest = max(self.slowest, other.slowest)
        self.memory = max(self.memory, other.memory)


def damaged(data: bytes, random_: random.Random) -> bytes:
    """With one to twenty places changed.

    Half of the zips and safetensors files are put together again around the change: otherwise
    most are refused for where their parts lie, before anybody reads what stands in them.
    """
    if random_.random() < 0.5:
        if data.startswith(b"PK\3\4"):
            return _damaged_entry(data, random_)
        if data[8:9] == b"{":
            end = 8 + int.from_bytes(data[:8], "little")
            header = _changed(data[8:end], random_)
            return len(header).to_bytes(8, "little") + header + data[end:]
    return _changed(data, random_)


def _damaged_entry(data: bytes, random_: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    told = [name for name in entries if name.endswith((".pkl", ".json"))]
    name = random_.choice(told if random_.random() < 0.8 else list(entries))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for other, entry in entries.items():
            info = zipfile.ZipInfo(other)
            archive.writestr(info, _changed(entry, random_) if other == name else entry)
    return stream.getvalue()


def _changed(data: bytes, random_: random.Random) -> bytes:
    changed = bytearray(data)
    in_place = random_.random() < 0.5
    for _ in range(random_.choice((1, 1, 1, 2, 3, 5, 10, _PLACES))):
        # Headers and directories are small, and lie at both ends.
        reach = random_.choice((len(changed), 64, 1024))
        place = random_.randrange(max(1, min(reach, len(changed))))
        if random_.random() < 0.3:
            place = max(0, len(changed) - 1 - place)
        _change(changed, place, in_place, random_)
    return bytes(changed)


def _change(changed: bytearray, place: int, in_place: bool, random_: random.Random) -> None:
    length = random_.choice((1, 1, 2, 4, 8, 64))
    kind = random_.randrange(4 if in_place else 8)
    held = bytes(changed[place : place + length])
    if kind == 0:
        changed[place : place + 1] = bytes([random_.randrange(256)])
    elif kind == 1 and held:
        changed[place] ^= 1 << random_.randrange(8)
    elif kind == 2:
        extreme = random_.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"-"))
        changed[place : place + length] = extreme * len(held)
    elif kind == 3:
        other = random_.randrange(max(1, len(changed) - length))
        changed[place : place + length] = changed[other : other + len(held)]
    elif kind == 4:
        changed[place:place] = random_.randbytes(length)
    elif kind == 5:
        del changed[place : place + length]
    elif kind == 6:
        changed[place:place] = held
    elif random_.random() < 0.1:
        del changed[place:]


def fuzz(files: int, seed: int, jobs: int, folder: Path, keep: Path) -> Findings:
    """Opens so many damaged files.

    Args:
        files: how many.
        seed: of what is changed: file number 7 is the same whatever the number of jobs.
        jobs: processes that read.
        folder: for all that is written.
        keep: for files that show a fault.
    """
    samples = _samples(folder)

    def part(job: int) -> Findings:
        findings = Findings()
        with Opener(_GRACE) as opener:
            for number in range(job, files, jobs):
                sample = samples[number % len(samples)]
                path = _damaged(sample, random.Random(f"{seed} {number}"), folder / str(number))
                findings.add(sample.form, opener.open(path), path, keep)
                (shutil.rmtree if path.is_dir() else Path.unlink)(path)
        return findings

    whole = Findings()
    with ThreadPoolExecutor(jobs) as pool:
        for findings in pool.map(part, range(jobs)):
            whole.join(findings)
    return whole


def _samples(folder: Path) -> list[_Sample]:
    samples = []
    for form, write in FORMS.items():
        path = write(folder / f"valid-{form}")
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        # Changing config.json changes nothing: no reader looks at what is in it.
        files = [file for file in files if file.name != "config.json"]
        samples.append(_Sample(form, path, tuple(files)))
    return samples


def _damaged(sample: _Sample, random_: random.Random, to: Path) -> Path:
    if not sample.path.is_dir():
        to.write_bytes(damaged(sample.path.read_bytes(), random_))
        return to
    shutil.copytree(sample.path, to)
    file = to / random_.choice(sample.files).name
    file.write_bytes(damaged(file.read_bytes(), random_))
    return to


def _table(findings: Findings) -> str:
    columns = ("opened", "refused", "raised", "hung", "died")
    lines = [f"{'format':<14}" + "".join(f"{column:>10}" for column in columns)]
    for form in FORMS:
        counts = [findings.outcomes[form, column] for column in columns]
        lines.append(f"{form:<14}" + "".join(f"{count:>10,}" for count in counts))
    totals = [
        sum(count for (_, outcome), count in findings.outcomes.items() if outcome == column)
        for column in columns
    ]
    lines.append(f"{'all':<14}" + "".join(f"{count:>10,}" for count in totals))
    lines.append(
        f"slowest {findings.slowest:.2f} s; at most {findings.memory >> 20:,} MiB for one file"
    )
    lines += [
        f"{findings.counts[fault]:>6} x {fault}: {kept}" for fault, kept in findings.faults.items()
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for faulty files")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        findings = fuzz(given.files, given.seed, given.jobs, Path(folder), given.keep)
    sys.stdout.write(_table(findings) + "\n")
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
