"""``[tool.gradscope]``: where it is looked for, what it may say, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradscope.config import Settings, find_settings, nearest
from gradscope.errors import ConfigError, UsageError

EVERYTHING = """
[tool.gradscope]
select = ["GS1", "dead-relu"]
ignore = ["GS105"]

[tool.gradscope.rules.dead-relu]
warning = 0.3
observations = 500

[tool.gradscope.rules.GS101]
error = 1e-6

[tool.gradscope.ignore-sites]
"decoder.*" = ["GS201", "GS1"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    path = written(tmp_path, EVERYTHING)
    assert find_settings(tmp_path) == Settings(
        select=("GS1", "dead-relu"),
        ignore=("GS105",),
        limits={"dead-relu": {"warning": 0.3, "observations": 500}, "GS101": {"error": 1e-6}},
        ignored_sites={"decoder.*": ("GS201", "GS1")},
        source=path,
    )


def test_without_a_table_nothing_is_set(tmp_path: Path) -> None:
    assert find_settings(tmp_path) == Settings()
    written(tmp_path, '[project]\nname = "x"\n[tool.ruff]\nline-length = 100\n')
    assert find_settings(tmp_path) == Settings()
    written(tmp_path, "tool = 3\n")
    assert find_settings(tmp_path) == Settings()


def test_the_nearest_file_with_a_table_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    outermost = written(tmp_path, '[tool.gradscope]\nselect = ["GS1"]\n')
    written(tmp_path / "a" / "b", "[tool.ruff]\n")
    (inner / "pyproject.toml").mkdir()
    assert find_settings(inner).source == outermost
    middle = written(tmp_path / "a", "[tool.gradscope]\n")
    assert find_settings(inner) == Settings(source=middle)
    monkeypatch.chdir(inner)
    assert find_settings() == Settings(source=middle)
    assert find_settings("..") == Settings(source=middle)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("selct = []", "tool.gradscope has no key 'selct'; the nearest is 'select'"),
        ("rule.dead-relu.warning = 1", "has no key 'rule'; the nearest is 'rules'"),
        ('select = "GS1"', "tool.gradscope.select is 'GS1'; it must be a list of rules"),
        ("select = [1]", "tool.gradscope.select is [1]; it must be a list of rules"),
        ("select = []", "tool.gradscope.select is an empty list"),
        ("ignore = 5", "tool.gradscope.ignore is 5; it must be a list of rules"),
        ("rules = 5", "tool.gradscope.rules is 5; it must be a table"),
        ("rules.dead-relu = 0.5", "tool.gradscope.rules.dead-relu is 0.5; it must be a table"),
        ("rules.dead-relu.warning = nan", "rules.dead-relu.warning is nan; it must be a finite"),
        ("rules.dead-relu.warning = -inf", "rules.dead-relu.warning is -inf; it must be a finite"),
        ("rules.GS201.warning = true", "rules.GS201.warning is True; it must be a finite number"),
        ('rules."a b".error = "1"', "rules.\"a b\".error is '1'; it must be a finite number"),
        ("rules.GS201.error = {}", "rules.GS201.error is {}; it must be a finite number"),
        (f"rules.GS201.error = 1{'0' * 400}", "it must be a finite number"),
        ('ignore-sites = ["GS201"]', "tool.gradscope.ignore-sites is ['GS201']; it must be a t"),
        ('ignore-sites."a.*" = "GS1"', "ignore-sites.\"a.*\" is 'GS1'; it must be a list of rul"),
        ('ignore-sites."a.*" = []', 'ignore-sites."a.*" is an empty list'),
        ('ignore-sites.a.b = ["GS1"]', "ignore-sites.a is a table; put the whole pattern in q"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, f"[tool.gradscope]\n{text}\n")
    with pytest.raises(ConfigError) as raised:
        find_settings(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{path}: tool.gradscope")
    assert said in message
    assert message.endswith(".")
    assert len(message) < len(str(path)) + 250
    assert isinstance(raised.value, UsageError)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    written(tmp_path, "tool.gradscope = 5\n")
    with pytest.raises(ConfigError, match=r"tool\.gradscope is 5; it must be a table"):
        find_settings(tmp_path)


@pytest.mark.parametrize("content", [b"[tool.gradscope\n", b"a = \xff\n", b"a = 1\na = 2\n"])
def test_a_broken_file_is_told_although_it_may_be_someone_elses(
    tmp_path: Path, content: bytes
) -> None:
    """It may hold settings that are meant, and other tools fail on it as well."""
    path = tmp_path / "pyproject.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid TOML") as raised:
        find_settings(tmp_path)
    assert str(raised.value).startswith(f"{path} ")


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match=r"pyproject\.toml cannot be read: Permission denied\."):
        find_settings(tmp_path)


def test_settings_made_in_python_are_checked_as_well() -> None:
    with pytest.raises(ConfigError, match=r"^the settings: tool\.gradscope\.rules\.GS201\.error"):
        Settings(limits={"GS201": {"error": float("nan")}})


@pytest.mark.parametrize(
    ("word", "known", "found"),
    [("warnin", ("error", "warning"), "warning"), ("", ("only",), "only"), ("zzz", ("a",), "a")],
)
def test_there_is_always_a_nearest(word: str, known: tuple[str, ...], found: str) -> None:
    assert nearest(word, known) == found
