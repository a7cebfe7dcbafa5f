"""What a package's modules define is found; what they merely import is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from gradscope.discovery import concrete_classes

SOURCES = {
    "__init__": """
from abc import ABC, abstractmethod
class Base(ABC):
    @abstractmethod
    def act(self): ...
class InPackage(Base):
    def act(self): ...
""",
    "b_second": """
from discovered import Base
from discovered.a_first import Zebra as Borrowed
class Unfinished(Base): ...
class Late(Borrowed): ...
class Later(Base):
    def act(self): ...
class Unrelated: ...
instance = Later()
""",
    "a_first": """
from discovered import Base
class Zebra(Base):
    def act(self): ...
class Ant(Base):
    def act(self): ...
""",
    "c_nothing": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    folder = tmp_path / "discovered"
    folder.mkdir()
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "nested").mkdir()
    (folder / "nested" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("discovered")
    for name in [name for name in sys.modules if name.partition(".")[0] == "discovered"]:
        del sys.modules[name]


def test_concrete_classes_come_in_order_of_module_then_of_definition(package: ModuleType) -> None:
    found = concrete_classes(package, package.Base)
    assert [kind.__name__ for kind in found] == ["Zebra", "Ant", "Late", "Later"]


def test_a_module_that_cannot_be_imported_is_not_passed_over(package: ModuleType) -> None:
    (Path(package.__path__[0]) / "d_broken.py").write_text("import no_such_module_anywhere\n")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        concrete_classes(package, package.Base)
