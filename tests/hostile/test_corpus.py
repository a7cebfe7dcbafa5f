"""Whatever a checkpoint is, it is read or refused in one sentence, and nothing in it runs."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.hostile.corpus import Entry, canaries, write_corpus
from tests.hostile.gadgets import WAYS, gadgets
from tests.hostile.pickles import pickles
from tests.hostile.reading import Opener

SECONDS = 5.0
LENGTH = 600

ASKED_FOR = (
    "posix.system by REDUCE in a zip",
    "builtins.eval by INST in an old file",
    "posix.system in optimizer.pt",
    "posix.system in .metadata",
    "a class with control characters in a zip",
    "a bomb of zeros",
    "an index that names a path upwards",
    "an index that names terminal escapes",
    "safetensors with overlapping tensors",
    "lists in lists in lists in a zip",
    "legacy is cut at 10/20",
)

RUN = (
    "os.system",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.open",
    "builtins.map",
    "importlib.import_module",
    "runpy._run_code",
    "pickle.loads",
    "functools.partial",
    "operator.attrgetter",
    "operator.methodcaller",
    "types.FunctionType",
    "pathlib.write_text",
    "pathlib.touch",
    "code.InteractiveInterpreter",
    "bdb.Bdb.run",
    "threading.Timer",
    "timeit.timeit",
    "cProfile.run",
    "multiprocessing.util.spawnv_passfds",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry]]:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_corpus(folder)


def is_sentence(message: str) -> bool:
    """Whether a terminal shows it on one line as it is, and somebody can read it."""
    strange = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return (
        0 < len(message) <= LENGTH
        and message.endswith(".")
        and not any(unicodedata.category(character) in strange for character in message)
    )


def test_every_one_is_refused_in_a_sentence_and_none_runs(
    corpus: tuple[Path, list[Entry]],
) -> None:
    folder, entries = corpus
    assert len(entries) >= 200
    assert len({entry.wrong for entry in entries}) == len(entries)
    faults = []
    with Opener(2 * SECONDS) as opener:
        for entry in entries:
            answer = opener.open(entry.path)
            fault = answer.wrong(SECONDS)
            if not fault and answer.outcome == "opened" and not entry.odd:
                fault = "was read"
            message = answer.message.replace(str(entry.path), "")
            if not fault and answer.outcome == "refused" and not is_sentence(message):
                fault = f"{len(message)} characters: {message!r:.300}"
            if fault:
                faults.append(f"{entry.path.parent.name} {entry.wrong}: {fault}")
    assert not faults, "\n".join(faults)
    assert not canaries(folder)


def test_the_command_line_says_it_in_one_line(corpus: tuple[Path, list[Entry]]) -> None:
    folder, entries = corpus
    by_name = {entry.wrong: entry for entry in entries}
    script = (
        "import sys\n"
        "from gradscope.cli import main\n"
        "for path in sys.argv[1:]:\n"
        "    sys.argv = ['gradscope', 'scan', path]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        print(ended.code)\n"
        "    print('end', file=sys.stderr)\n"
    )
    # One process for all, since importing torch takes seconds.
    paths = [str(by_name[wrong].path) for wrong in ASKED_FOR]
    ran = subprocess.run(
        [sys.executable, "-c", script, *paths],
        capture_output=True,
        timeout=60,
        cwd=folder,
        check=True,
    )
    assert ran.stdout.split() == [b"3"] * len(ASKED_FOR)
    told = ran.stderr.decode().split("end\n")[:-1]
    for wrong, path, lines in zip(ASKED_FOR, paths, told, strict=True):
        message = lines.removesuffix("\n").replace(path, "")
        assert is_sentence(message), f"{wrong}: {message!r}"
    assert not canaries(folder)


def test_these_would_run_if_they_were_unpickled(tmp_path: Path) -> None:
    # Otherwise the corpus would prove nothing.
    pickled = {}
    for way, write in WAYS.items():
        # These three import, or call ``__new__`` alone.
        if way not in ("GLOBAL alone", "NEWOBJ", "NEWOBJ_EX"):
            pickled[way] = "posix.system", write
    for family in RUN:
        pickled[family] = family, WAYS["REDUCE"]
    for number, (family, write) in enumerate(pickled.values()):
        gadget = gadgets(str(tmp_path / f"canary-{number}"))[family]
        (tmp_path / f"{number}.pickle").write_bytes(b"\x80\x02" + write(gadget) + b".")
    script = (
        "import pathlib, pickle\n"
        "for path in pathlib.Path('.').glob('*.pickle'):\n"
        "    try:\n"
        "        pickle.loads(path.read_bytes())\n"
        "    except Exception:\n"
        "        pass\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60, capture_output=True
    )
    idle = [what for n, what in enumerate(pickled) if not (tmp_path / f"canary-{n}").exists()]
    assert not idle


def test_the_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    for number, (wrong, _, write) in enumerate(pickles(gadgets("/tmp/canary"))):
        if number % 50 == 0:
            one, other = write(tmp_path / f"{number}"), write(tmp_path / f"{number} again")
            if one.is_file():
                assert one.read_bytes() == other.read_bytes(), wrong
