"""Loading a subject: what it takes from a file, and what is said of files that are none."""

from __future__ import annotations

import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradscope
from gradscope.batches import batch_size, call_model, to_device
from gradscope.errors import ModelError, SubjectError
from gradscope.loading import load_callable
from gradscope.subject import Subject

COMPLETE = """
import torch
from torch import nn
def build_model():
    return nn.Linear(3, 2)
def build_data():
    return [(torch.ones(4, 3), torch.zeros(4, 2))]
def loss(output, batch):
    return (output - batch[1]).square().mean()
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    path, modules = list(sys.path), set(sys.modules)

    def write(source: str, name: str = "subject.py") -> Path:
        target = tmp_path / name
        target.write_text(source, encoding="utf-8")
        return target

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("gradscope_subject_"):
            del sys.modules[name]


def refused(spec: str | Path) -> str:
    with pytest.raises(SubjectError) as caught:
        gradscope.load_subject(str(spec))
    assert caught.value.exit_status == 3
    return str(caught.value)


# --- Loading ----------------------------------------------------------------------------------


def test_a_complete_file(write: Write) -> None:
    path = write(COMPLETE)
    subject = gradscope.load_subject(str(path))
    assert (subject.name, subject.kind, subject.synthetic) == (str(path), "subject file", False)
    assert subject.build_optimizer is None
    assert subject.evaluate is None
    assert subject.build_data is not None
    (batch,) = subject.build_data()
    model = subject.build_model()
    assert torch.equal(subject.step(model, batch), model(batch[0]).square().mean())
    assert gradscope.scan(subject).target.parameters == 8


def test_a_step_goes_before_a_loss_and_options_are_found(write: Write) -> None:
    source = """
def step(model, batch):
    return model(batch[0]).sum() * 0 + 7
def build_optimizer(parameters):
    return torch.optim.Adam(parameters)
def evaluate(model):
    return {"accuracy": 0.5}
"""
    subject = gradscope.load_subject(str(write(COMPLETE + source)))
    assert subject.build_data is not None
    (batch,) = subject.build_data()
    model = subject.build_model()
    assert float(subject.step(model, batch).detach()) == 7
    assert subject.build_optimizer is not None
    assert isinstance(subject.build_optimizer(model.parameters()), torch.optim.Adam)
    assert subject.evaluate is not None
    assert subject.evaluate(model) == {"accuracy": 0.5}


def test_a_named_factory_may_come_without_data_and_loss(write: Write) -> None:
    path = write("from torch import nn\ndef make():\n    return nn.Linear(2, 2)\n")
    subject = gradscope.load_subject(f"{path}:make")
    assert (subject.kind, subject.build_data) == ("model factory", None)
    assert isinstance(subject.build_model(), nn.Linear)
    assert gradscope.scan(subject).findings == ()
    with pytest.raises(SubjectError, match=r"comes without a loss; name one with --loss"):
        subject.step(subject.build_model(), torch.zeros(2))


def test_a_missing_loss_is_still_named_when_it_shows_in_a_run(write: Write) -> None:
    path = write(COMPLETE.replace("def loss", "def unused").replace("build_model", "make"))
    with pytest.raises(SubjectError) as caught:
        gradscope.scan(gradscope.load_subject(f"{path}:make"))
    assert (
        str(caught.value) == f"{path}:make comes without a loss; name one with --loss FILE.py:NAME."
    )


def test_two_files_of_one_name_stay_apart_and_see_what_lies_beside_them(
    tmp_path: Path, write: Write
) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(f"WIDTH = {number}\n", f"{number}/beside_{number}.py")
        source = COMPLETE.replace("nn.Linear(3, 2)", "Own()") + (
            f"class Own(nn.Linear):\n    def __init__(self):\n"
            f"        from beside_{number} import WIDTH\n        super().__init__(3, WIDTH)\n"
        )
        write(source, f"{number}/model.py")
    one, two = (gradscope.load_subject(str(tmp_path / str(n) / "model.py")) for n in (1, 2))
    assert [one.build_model().out_features, two.build_model().out_features] == [1, 2]


def test_a_package_module_is_found_by_its_dotted_name(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holder_of_subjects").mkdir()
    write("", "holder_of_subjects/__init__.py")
    write(COMPLETE, "holder_of_subjects/first.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert gradscope.load_subject("holder_of_subjects.first").name == "holder_of_subjects.first"
    assert "holder_of_subjects.second is neither a file nor a module" in refused(
        "holder_of_subjects.second"
    )


def test_a_callable_by_name(write: Write) -> None:
    path = write(COMPLETE)
    assert load_callable(f"{path}:loss", "build_data").__name__ == "loss"
    assert load_callable(str(path), "build_data").__name__ == "build_data"
    with pytest.raises(SubjectError, match=r"has no function missing\(\)"):
        load_callable(f"{path}:missing", "loss")


# --- What is no subject -----------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    message = refused(tmp_path / "gone.py")
    assert message.startswith(f"{tmp_path / 'gone.py'} does not exist; check the path")
    assert str(Path.cwd()) in message


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path} is a folder; name a Python file in it."


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("x")
    message = refused(tmp_path / "model.txt")
    assert message.startswith(f"{tmp_path / 'model.txt'} is not a Python file; a subject file ends")
    assert "build_model(), build_data() and loss(output, batch)" in message


def test_a_module_that_does_not_exist() -> None:
    message = refused("no_such_package.at_all")
    assert message.startswith("no_such_package.at_all is neither a file nor a module")
    assert "check the spelling or the working directory" in message


BROKEN = [
    ("def f(:\n", ["SyntaxError", "line 1"]),
    ("x = 1\nimport no_such_module_here\n", ["'no_such_module_here'", "subject.py, line 2"]),
    ("x = 1\n\n1 / 0\n", ["ZeroDivisionError", "subject.py, line 3"]),
    ("x = 'a\x00b'\n", ["null bytes"]),
    ("import sys\nsys.exit(3)\n", ["sys.exit", "line 2"]),
    (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\n"
        "p.parse_args([])\n",
        ["sys.exit", "line 4"],
    ),
]


@pytest.mark.parametrize(("source", "words"), BROKEN, ids=lambda value: str(value)[-25:])
def test_a_file_that_cannot_be_imported(
    write: Write, source: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(source)
    before = set(sys.modules)
    message = refused(path)
    assert message.startswith(f"{path} could not be imported: ")
    for word in words:
        assert word in message
    assert "None" not in message
    assert not [name for name in set(sys.modules) - before if name.startswith("gradscope_subject")]


def test_the_line_that_is_named_is_one_of_the_users_own(write: Write) -> None:
    path = write("import torch\n\ntorch.nn.Linear(2, 'wide')\n")
    assert "subject.py, line 3" in refused(path)


def test_a_missing_model(write: Write) -> None:
    path = write(COMPLETE.replace("def build_model", "def something_else"))
    message = refused(path)
    assert message.startswith(f"{path} has no build_model(); a subject file defines build_model(),")


def test_missing_data_are_made_up_and_a_missing_loss_is_the_models_own(write: Write) -> None:
    no_data = gradscope.load_subject(str(write(COMPLETE.replace("def build_data", "def unused"))))
    assert (no_data.kind, no_data.build_data) == ("subject file", None)
    assert gradscope.scan(no_data).profile.source == "synthetic"  # type: ignore[union-attr]
    own = (
        "class Own(nn.Linear):\n    def forward(self, x):\n        y = super().forward(x)\n"
        "        return {'loss': y.square().mean(), 'logits': y}\n"
    )
    source = COMPLETE.replace("def loss", "def unused").replace("nn.Linear(3", "Own(3") + own
    report = gradscope.scan(gradscope.load_subject(str(write(source, "own.py"))))
    assert report.profile is not None
    assert report.profile.source == "measured"


def test_a_factory_that_is_missing(write: Write) -> None:
    path = write(COMPLETE)
    assert f"{path}:make has no make()" in refused(f"{path}:make")


def test_a_name_that_is_no_function(write: Write) -> None:
    path = write(COMPLETE + "build_data = [1, 2]\n")
    assert refused(path) == f"build_data in {path} is a list, not a function."


def test_a_factory_that_fails_or_returns_something_else(write: Write) -> None:
    failing = write(COMPLETE.replace("return nn.Linear(3, 2)", "raise ValueError('no weights')"))
    with pytest.raises(ModelError) as caught:
        gradscope.scan(gradscope.load_subject(str(failing)))
    assert str(caught.value).startswith(f"build_model() in {failing} raised ValueError: no weights")
    other = write(COMPLETE.replace("return nn.Linear(3, 2)", "return [3, 2]"), "other.py")
    with pytest.raises(SubjectError) as refusal:
        gradscope.scan(gradscope.load_subject(str(other)))
    assert str(refusal.value) == (
        f"build_model() in {other} returned a list; it must return a torch.nn.Module."
    )


def test_data_that_cannot_be_built(write: Write) -> None:
    source = COMPLETE.replace("return [(torch", "open('/nonexistent/images')\n    return [(torch")
    path = write(source)
    with pytest.raises(ModelError) as caught:
        gradscope.scan(gradscope.load_subject(str(path)))
    assert "build_data()" in str(caught.value)
    assert "/nonexistent/images" in str(caught.value)


def test_an_optimizer_that_cannot_be_built(write: Write) -> None:
    path = write(COMPLETE + "def build_optimizer(parameters):\n    raise ValueError('bad lr')\n")
    with pytest.raises(ModelError, match=r"optimizer.*bad lr"):
        gradscope.scan(gradscope.load_subject(str(path)))


# --- Batches ----------------------------------------------------------------------------------


class Recorder(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs


Named = namedtuple("Named", "inputs targets")


@pytest.mark.parametrize(
    ("batch", "args", "kwargs", "samples"),
    [
        (x := torch.zeros(5, 2), (x,), {}, 5),
        ((x, "targets"), (x,), {}, 5),
        ([x, 1], (x,), {}, 5),
        (Named(x, 1), (x,), {}, 5),
        ({"a": x, "b": 2}, (), {"a": x, "b": 2}, 5),
        (OrderedDict(b=2, a=x), (), {"a": x, "b": 2}, 5),
        (({"ids": x}, 1), ({"ids": x},), {}, 5),
        (torch.tensor(1.0), (torch.tensor(1.0),), {}, 1),
        ("text", ("text",), {}, 1),
        (torch.zeros(0, 2), (torch.zeros(0, 2),), {}, 0),
    ],
)
def test_how_a_batch_is_passed(
    batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any], samples: int
) -> None:
    passed, named = call_model(Recorder(), batch)
    assert repr(passed) == repr(args)
    assert named.keys() == kwargs.keys()
    assert all(named[key] is kwargs[key] for key in kwargs)
    assert batch_size(batch) == samples


def test_moving_a_batch_keeps_its_structure() -> None:
    x = torch.zeros(2)
    batch = ({"a": x, "n": 1}, [x, "text"], Named(x, None))
    moved = to_device(batch, "meta")
    assert moved[0]["a"].is_meta
    assert moved[0]["n"] == 1
    assert moved[1][0].is_meta
    assert moved[1][1] == "text"
    assert isinstance(moved[2], Named)
    assert moved[2].inputs.is_meta
    assert not x.is_meta


def test_a_subject_on_a_device_is_the_same_subject() -> None:
    """Also one whose data is a generator function, and whatever is gone through twice."""
    x = torch.ones(4, 3)

    def build_data() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, x
        yield 2 * x, x

    subject = Subject(
        "a test", lambda: nn.Linear(3, 3), build_data, lambda model, batch: model(batch[0]).mean()
    ).on("cpu")
    assert subject.build_data is not None
    data = subject.build_data()
    for _ in range(2):
        # Spent after one pass, as any generator, or good for another: never silently empty.
        seen = list(data)
        if not seen:
            assert iter(data) is data
            seen = list(subject.build_data())
        assert [float(batch[0][0, 0]) for batch in seen] == [1.0, 2.0]
    listed = Subject.of(nn.Linear(3, 3), [x, 2 * x, 3 * x], lambda output, batch: output.mean())
    assert listed.on("cpu").build_data is not None
    assert len(listed.on("cpu").build_data()) == 3  # type: ignore[misc, arg-type]


def test_a_live_models_copies_are_not_the_model() -> None:
    model = nn.Linear(3, 2)
    subject = Subject.of(model, [torch.ones(2, 3)], lambda output, batch: output.mean())
    copied = subject.build_model()
    assert (subject.name, subject.kind) == ("Linear", "live model")
    assert copied is not model
    assert torch.equal(copied.weight, model.weight)
    assert copied.weight.data_ptr() != model.weight.data_ptr()
