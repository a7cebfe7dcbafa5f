"""What mkdocs does beside its settings in mkdocs.yml, which names this file."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
_PARTS = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,})[^\n]*\n.*?^(?P=indent)(?P=fence)[ \t]*$\n?"
    r"|^[ \t]*(?P<comment><!--.*?-->)[ \t]*$\n?"
    r"|^(?P<row>\|[^\n]*)$",
    flags=re.DOTALL | re.MULTILINE,
)
# The kinds of towncrier in pyproject.toml.
_KINDS = ("added", "changed", "fixed", "removed")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts every page of a folder into the navigation where it names ``folder/*``."""
    config.nav = [_opened(entry) for entry in config.nav or []]
    return config


def _opened(entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    ((title, below),) = entry.items()
    if not isinstance(below, list):
        return entry
    opened: list[object] = []
    for inner in below:
        if isinstance(inner, str) and inner.endswith("/*"):
            folder = DOCS / inner.removesuffix("/*")
            opened += [
                path.relative_to(DOCS).as_posix()
                for path in sorted(folder.glob("*.md"), key=_order)
                if path.stem not in ("index", "README")
            ]
        else:
            opened.append(_opened(inner))
    return {title: opened}


def _order(path: Path) -> list[tuple[int, str]]:
    """By title, so that rules go by their codes; numbers by their size."""
    parts = re.split(r"(\d+)", _title(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the changelog, with the changes that no release has yet, and a start of its section."""
    files.append(File.generated(config, "changelog.md", content=_changelog()))
    files.append(File.generated(config, "about/index.md", content=_about()))
    return files


def _about() -> str:
    return (
        "# About\n\n"
        "- [Architecture](../architecture.md): the rooms of the code, and what goes where.\n"
        "- [Changelog](../changelog.md): what changed for those who use gradscope.\n"
        "- [Decisions](../decisions/README.md): what was decided, and what would change it.\n\n"
        + _decisions("../decisions/")
    )


def _decisions(folder: str) -> str:
    rows = (
        f"| [{_title(path)}]({folder}{path.name}) |\n"
        for path in sorted((DOCS / "decisions").glob("[0-9]*.md"))
    )
    return "| decision |\n| --- |\n" + "".join(rows)


def _changelog() -> str:
    text = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    about, mark, released = text.partition("<!-- towncrier: releases below -->\n")
    assert mark, "CHANGELOG.md has no mark for towncrier"
    parts = []
    for kind in _KINDS:
        fragments = sorted((DOCS / "changelog").glob(f"*.{kind}.md"))
        if fragments:
            said = (" ".join(path.read_text(encoding="utf-8").split()) for path in fragments)
            parts.append(f"### {kind.capitalize()}\n\n" + "".join(f"- {each}\n" for each in said))
    unreleased = "## Not yet released\n\n" + "\n".join(parts) + "\n" if parts else ""
    return f"{about}\n{unreleased}{released}"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leaves out comments: what they tell the tests of the code blocks is nobody else's matter."""
    shown = _PARTS.sub(_shown, markdown)
    if page.file.src_uri == "decisions/README.md":
        shown += "\n" + _decisions("")
    return shown


def _shown(part: re.Match[str]) -> str:
    if part["row"]:
        # Elsewhere a bar in the code of a table is escaped; here it would be shown with the escape.
        return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), part["row"])
    return "" if part["comment"] else part[0]
