"""Every code block of the documentation is run.

The blocks of one page are run in their order in one fresh folder; nothing is given but what the
page itself has made. README has a test of its own; decisions and changelog fragments are left out.

- ``python``: run in one namespace per page, the folder being the current one. What it prints is
  its output.
- ``sh``: each line is a command that starts with ``gradscope``, ``python`` or ``torchrun`` (after
  settings such as ``NAME=value``), may use pipes and ``>``, and must exit with status 0. A
  ``\\`` at the end continues a line; what follows ``#`` is a remark.
- ``console``: lines after ``$ `` are such commands; the others have to stand in their output.
- ``toml``, ``yaml``, ``json``: have to be valid.
- ``text``: anything. ``html`` and ``diff`` too. A line that starts with ``gradscope`` is not run;
  its command and options have to be there.
- A block of any language whose first line is ``# path/name.ext`` is written to that file of the
  folder (and, if it is Python or sh, not run).

Comments of HTML on the lines right above a fence say what is different:

- ``<!-- exits 1 -->``: each command of the block exits with status 1.
- ``<!-- output -->`` above a ``text`` block: each of its lines, spaces aside, stands in a line of
  what the blocks since the last such block have printed. A line of only ``…`` or ``...`` stands
  for lines left out.
- ``<!-- not run: reason -->``: left out. ``NOT_RUN`` below counts these.

A fence inside a comment is run, and a reader does not see it: for what the reader has already::

    <!-- The reader's own training:
    ```python
    # train.py
    ...
    ```
    -->
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.docs.blocks import Block, blocks

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): found
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in ("changelog", "decisions") and (found := blocks(path))
}
SHOWN = {"diff", "html", "text"}
COMMAND = re.compile(r"(?:\w+=\S* +)*(gradscope|python|torchrun)( |$)")
NOT_RUN = 0
"""How many blocks are not run; each says why."""


def test_few_blocks_are_not_run() -> None:
    left_out = [
        (f"{page}:{block.line}", block.not_run)
        for page, found in PAGES.items()
        for block in found
        if block.not_run is not None
    ]
    assert all(reason for _, reason in left_out)
    assert len(left_out) == NOT_RUN, left_out


def test_commands_that_are_only_shown_exist() -> None:
    """``docs/reference/cli.md`` is generated from the commands themselves."""
    reference = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    sections = {
        section.partition("\n")[0]: set(re.findall(r"`(--?[\w-]+)", section))
        for section in reference.split("\n## gradscope ")[1:]
    }
    for page, found in PAGES.items():
        shown = [block for block in found if block.language == "text" or block.not_run is not None]
        for line in "".join(block.code for block in shown).splitlines():
            command, *words = line.partition("#")[0].split() or [""]
            if command != "gradscope" or not words or not words[0].islower():
                continue
            assert words[0] in sections, f"{page}: {line}"
            options = {word for word in words[1:] if re.match(r"--?[a-z]", word)}
            # What stands behind a script of 'run' is the script's.
            if words[0] != "run":
                assert options <= sections[words[0]] | {"--help"}, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page(
    page: str, reader: Reader, record_property: Callable[[str, object], None]
) -> None:
    start = time.monotonic()
    for block in PAGES[page]:
        if block.not_run is None:
            reader.follow(block)
    record_property("measured", f"docs/{page}: {time.monotonic() - start:.1f} s")


class Reader:
    """Does what a page says, in a folder of its own.

    Args:
        page: the file, for tracebacks.
        folder: the current one.
        read: what was printed since it was last called.
    """

    def __init__(self, page: Path, folder: Path, read: Callable[[], str]) -> None:
        self.page, self.folder, self.read = page, folder, read
        self.printed = ""
        self.main = ModuleType("__main__")

    def follow(self, block: Block) -> None:
        place = f"{self.page}:{block.line}"
        if block.file is not None:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        match block.language:
            case "python" | "sh" | "bash" if block.file is not None:
                pass
            case "python":
                self.execute(block)
            case "sh" | "console":
                for command, shown in block.commands():
                    output = self.command(command, block.status, place)
                    self.printed += output
                    compare(shown, output, place)
            case "toml":
                tomllib.loads(block.code)
            case "yaml":
                yaml.safe_load(block.code)
            case "json":
                json.loads(block.code)
            case "text" if block.is_output:
                compare(block.code.splitlines(), self.printed, place)
                self.printed = ""
            case language:
                assert language in SHOWN, f"{place}: a block of {language or 'no language'}"

    def execute(self, block: Block) -> None:
        # Line numbers and source are those of the page.
        code = compile("\n" * (block.line - 1) + block.code, self.page, "exec")
        main = sys.modules["__main__"]
        sys.modules["__main__"] = self.main
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                exec(code, vars(self.main))
        finally:
            sys.modules["__main__"] = main
        self.printed += self.read()

    def command(self, command: str, status: int, place: str) -> str:
        """Runs it, and returns what it has printed."""
        found = COMMAND.match(command)
        assert found, f"{place}: {command!r} is none of gradscope, python, torchrun"
        words = command.split()
        # What is run with the monitor is to have a process to itself.
        inside = words[0] == "gradscope" and words[1:2] != ["run"]
        if inside and not re.search(r"[|&;<>$*'\"]", command):
            exited, output = self.gradscope(words)
        else:
            done = subprocess.run(
                command,
                shell=True,
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            exited, output = done.returncode, done.stdout
        assert exited == status, f"{place}: {command} exits {exited}\n{output}"
        return output

    def gradscope(self, words: list[str]) -> tuple[int, str]:
        """The command in this process, which spares it the import of torch."""
        from gradscope.cli import main

        before, sys.argv = sys.argv, words
        modules = set(sys.modules)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            sys.argv = before
            forget(self.folder, set(sys.modules) - modules)
        return status, self.read()


def forget(folder: Path, modules: set[str]) -> None:
    """Lets the next command read the files of the folder anew, as a new process does."""
    for name in modules:
        path = getattr(sys.modules[name], "__file__", None)
        if path is not None and folder in Path(path).parents:
            del sys.modules[name]


def compare(shown: list[str], output: str, place: str) -> None:
    lines = [" ".join(line.split()) for line in output.splitlines()]
    for line in (" ".join(line.split()) for line in shown):
        if line in ("", "…", "..."):
            continue
        assert any(line in other for other in lines), f"{place}: {line!r} is not in\n{output}"


@pytest.fixture
def reader(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    modules = set(sys.modules)

    def read() -> str:
        printed = capsys.readouterr()
        return printed.out + printed.err

    read()
    yield Reader(DOCS / page, tmp_path, read)
    forget(tmp_path, set(sys.modules) - modules)
