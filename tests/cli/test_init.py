"""``gradscope init``: the files it writes load, scan, say "synthetic", and can be filled in."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradscope.loading import load_subject

RUFF = Path(sys.executable).with_name("ruff")

NETS = (Path(__file__).parent / "scripts" / "nets.py").read_text()

KINDS = {
    "Mlp": "torch.randn(32, 20)",
    "cnn": "torch.randn(32, 3, 32, 32)",
    "Tokens": "torch.randint(90, (32, 16))",
    "Recurrent": "torch.randn(16, 32, 6)",
    "Transformer": '"attention_mask": torch.full((32, 16), 1)',
    "Two": '"x2": torch.randn(32, 6)',
    "built": "torch.randn(32, 20)",
}


@pytest.fixture(autouse=True)
def _forgotten(tmp_path: Path) -> Iterator[None]:
    """Modules of one test are not those of the same name in the next."""
    importlib.invalidate_caches()
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return Path("nets.py")


@pytest.fixture
def subject(gradscope: Any, tmp_path: Path) -> Callable[..., str]:
    """Writes a subject file for a spec and returns its text."""

    def written(spec: str, output: str = "subject.py") -> str:
        run = gradscope("init", spec, "--output", output)
        assert run.status == 0, run.err
        assert f"gradscope scan {output}" in run.out
        return (tmp_path / output).read_text(encoding="utf-8")

    return written


def source_of(run: Any) -> str:
    return str(json.loads(run.out)["profile"]["source"])


def with_data(text: str) -> str:
    """The file with build_data() no longer a comment."""
    before, mark, after = text.partition("#\n# def build_data():")
    assert mark
    block, _, rest = f"# def build_data():{after}".partition("\n\n\n")
    lines = [line.removeprefix("# ") for line in block.splitlines()]
    return before + "\n\n" + "\n".join(lines) + "\n\n\n" + rest


def lint(*paths: str) -> None:
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [RUFF, *command, "--isolated", "--no-cache", *paths], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout + run.stderr


def refused(run: Any, status: int, *words: str) -> None:
    assert run.status == status, run.err
    assert run.out == ""
    for word in words:
        assert word in run.said
    assert not Path("subject.py").exists()


def test_without_a_model_it_writes_a_template_that_works(gradscope: Any, tmp_path: Path) -> None:
    run = gradscope("init")
    assert run.status == 0
    assert "gradscope scan subject.py" in run.out
    text = (tmp_path / "subject.py").read_text()
    for part in ("build_model", "build_data", "loss", "build_optimizer", "evaluate"):
        assert f"def {part}(" in text
    lint("subject.py")
    scanned = gradscope("scan", "subject.py", "--format", "json")
    assert (scanned.status, scanned.said) == (0, "")
    assert source_of(scanned) == "measured"


def test_nothing_is_overwritten(gradscope: Any, tmp_path: Path) -> None:
    (tmp_path / "subject.py").write_text("mine")
    run = gradscope("init")
    assert run.status == 2
    assert "subject.py exists already" in run.said
    assert "--output FILE" in run.said
    assert (tmp_path / "subject.py").read_text() == "mine"
    assert gradscope("init", "--output", "other.py").status == 0
    assert (tmp_path / "other.py").exists()


@pytest.mark.parametrize(
    ("output", "word"), [("subject.txt", "ends in .py"), ("none/x.py", "is no folder")]
)
def test_a_place_where_no_subject_file_can_be(gradscope: Any, output: str, word: str) -> None:
    run = gradscope("init", "--output", output)
    assert run.status == 2
    assert word in run.said


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_each_kind(
    gradscope: Any, subject: Callable[..., str], nets: Path, tmp_path: Path, kind: str
) -> None:
    text = subject(f"{nets}:{kind}")
    assert KINDS[kind] in text
    scanned = gradscope("scan", "subject.py", "--format", "json", "--fail-on", "never")
    assert scanned.status == 0, scanned.err
    assert source_of(scanned) == "synthetic"
    (tmp_path / "filled.py").write_text(with_data(text))
    scanned = gradscope("scan", "filled.py", "--format", "json", "--fail-on", "never")
    assert scanned.status == 0, scanned.err
    assert source_of(scanned) == "measured"
    lint("subject.py", "filled.py")


def test_it_says_what_it_guessed(gradscope: Any, nets: Path) -> None:
    run = gradscope("init", f"{nets}:cnn")
    assert "nets.py:cnn, 314 parameters (built)" in run.out
    assert "float32 of 32x3x32x32 (a guess)" in run.out
    assert "cross_entropy over 10 classes (a guess)" in run.out
    assert "Adam(parameters, lr=1e-3) (a guess)" in run.out
    assert "fill in build_data()" in run.out


def test_a_model_is_built_once(gradscope: Any, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(
        "from torch import nn\n\n\ndef make():\n    print('built')\n    return nn.Linear(3, 2)\n"
    )
    run = gradscope("init", "counted.py:make")
    assert run.err.splitlines() == ["built"]


def test_a_hugging_face_folder(gradscope: Any, subject: Callable[..., str], tmp_path: Path) -> None:
    import transformers

    config = transformers.GPT2Config(
        n_embd=16, n_head=2, n_layer=1, n_positions=40, vocab_size=90, num_labels=7
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "saved")
    text = subject("saved")
    assert "GPT2LMHeadModel.from_pretrained(FOLDER)" in text
    assert "return output.loss" in text
    # Without weights, and without a token for padding, which its class looks for.
    config.architectures = ["GPT2ForSequenceClassification"]
    config.save_pretrained(tmp_path / "fresh")
    assert "model.config.pad_token_id" in subject("fresh", "fresh_subject.py")
    for name in ("subject.py", "fresh_subject.py"):
        scanned = gradscope("scan", name, "--format", "json", "--fail-on", "never")
        assert scanned.status == 0, scanned.err
        assert source_of(scanned) == "synthetic"
    (tmp_path / "filled.py").write_text(with_data(text))
    scanned = gradscope("scan", "filled.py", "--format", "json", "--fail-on", "never")
    assert source_of(scanned) == "measured"
    lint("subject.py", "fresh_subject.py", "filled.py")


@pytest.mark.parametrize(
    ("place", "spec"),
    [
        pytest.param("models/nets_below.py", "models/nets_below.py:Mlp", id="below"),
        pytest.param("pack/nets_inside.py", "pack.nets_inside:Mlp", id="a module"),
        pytest.param("my-net.py", "my-net.py:Mlp", id="no identifier"),
        pytest.param("copy.py", "copy.py:Mlp", id="the name of another module"),
        pytest.param('it\'s "odd" ☃/net.v2.py', 'it\'s "odd" ☃/net.v2.py:Mlp', id="quotes"),
        pytest.param("modèles/réseau.py", "modèles/réseau.py:Mlp", id="unicode"),
        pytest.param(f"{'x' * 90}/nets_far.py", f"{'x' * 90}/nets_far.py:Mlp", id="long"),
        pytest.param("line\nbreak\u202e/n.py", "line\nbreak\u202e/n.py:Mlp", id="hostile"),
    ],
)
def test_where_the_code_lies(
    gradscope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, spec: str
) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(NETS)
    run = gradscope("init", spec)
    assert run.status == 0, run.err
    assert "\u202e" not in run.out
    lint("subject.py")
    # From anywhere, and in a process that has not imported the code yet.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if str(tmp_path) not in each])
    scanned = gradscope("scan", "../subject.py", "--format", "json")
    assert scanned.status == 0, scanned.err
    assert source_of(scanned) == "synthetic"


def test_code_and_file_in_two_projects(gradscope: Any, tmp_path: Path, nets: Path) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "here").mkdir()
    run = gradscope("init", f"{nets}:Mlp", "--output", "apart/subject.py")
    assert run.status == 0
    assert 'parent / ".."' in (tmp_path / "apart" / "subject.py").read_text()
    assert gradscope("scan", "apart/subject.py").status == 0
    lint("apart/subject.py")


def test_a_factory_that_has_the_name_of_ours(
    gradscope: Any, subject: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "bare.py").write_text(NETS + "\n\ndef build_model():\n    return Mlp()\n")
    assert "return my_build_model()" in subject("bare.py")
    assert gradscope("scan", "subject.py").status == 0
    lint("subject.py")


def test_the_only_model_of_a_file_need_not_be_named(
    gradscope: Any, subject: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "single.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(4, 2)\n"
    )
    assert "return Net()" in subject("single.py")


def test_inputs_that_cannot_be_found_out(
    gradscope: Any, subject: Callable[..., str], nets: Path
) -> None:
    text = subject(f"{nets}:Graph")
    assert "no # 'edges' can be made up" in " ".join(text.split())
    assert "--data" not in text
    lint("subject.py")
    run = gradscope("scan", "subject.py")
    assert run.status == 3
    assert "fill in build_data() in this file" in run.said


def test_a_factory_with_required_arguments(
    gradscope: Any, subject: Callable[..., str], nets: Path, tmp_path: Path
) -> None:
    text = subject(f"{nets}:Sized")
    assert "return Sized(width=..., depth=...)" in text
    lint("subject.py")
    run = gradscope("scan", "subject.py")
    assert run.status == 3
    assert "fill in the arguments in build_model()" in run.said
    head, _, rest = text.partition("    raise NotImplementedError(")
    filled = head + rest.partition("    )\n")[2].replace("width=..., depth=...", "4, 2")
    (tmp_path / "filled.py").write_text(filled)
    assert gradscope("scan", "filled.py").status == 0


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ("nets.py:broken", 3, ["broken() in nets.py raised ValueError: no weights here"]),
        ("nets.py:text", 3, ["returned a str", "torch.nn.Module"]),
        ("nets.py:number", 3, ["nets.py:number is a int", "a function that builds the model"]),
        ("nets.py:Missing", 3, ["has no Missing", "name one: nets.py:Mlp"]),
        ("nets.py", 2, ["does not say which model", "nets.py:Mlp, nets.py:Tokens"]),
        ("absent.py:Net", 3, ["absent.py does not exist"]),
        ("absent.module:Net", 3, ["neither a file nor a module", "working directory"]),
        ("inner.other:Net", 3, ["code/inner/other.py", "as a path"]),
        ("weights.pt", 2, ["is a checkpoint", "gradscope scan weights.pt", "--model FILE.py:NAME"]),
        ("folder", 2, ["config.json", "FILE.py:NAME"]),
        ("ready.py", 2, ["is a subject file already", "gradscope scan ready.py"]),
        ("", 2, ["SPEC is empty"]),
    ],
)
def test_what_no_file_can_be_written_for(
    gradscope: Any,
    nets: Path,
    tmp_path: Path,
    write: Callable[..., Path],
    spec: str,
    status: int,
    words: list[str],
) -> None:
    write("ready.py")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "folder").mkdir()
    (tmp_path / "code" / "inner").mkdir(parents=True)
    (tmp_path / "code" / "inner" / "other.py").write_text(NETS)
    refused(gradscope("init", spec), status, *words)


def test_from_nothing_to_a_repaired_model(
    gradscope: Any,
    subject: Callable[..., str],
    sick: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As someone new goes: init, scan, their own data, fix."""
    (tmp_path / "deep.py").write_text(sick.read_text().partition("def build_data")[0])
    text = subject("deep.py").replace("Adam(parameters, lr=1e-3)", "SGD(parameters, lr=0.1)")
    (tmp_path / "subject.py").write_text(text)
    assert gradscope("scan", "subject.py").status == 1
    filled = with_data(text).replace("torch.randint(3, (32,))", "inputs[:, :3].argmax(dim=1)")
    assert "argmax" in filled
    (tmp_path / "subject.py").write_text(filled.replace("range(64)", "range(16)"))
    # Steps enough for a repair to show, whatever the machine can do in the budget.
    monkeypatch.setattr(importlib.import_module("gradscope.verify"), "_rounded", lambda _: 60)
    options = ("--unsafe", "--remedy", "norm-insertion", "--seeds", "5", "--budget", "2")
    gradscope("fix", "subject.py", "--out", "repaired", *options)
    report = json.loads((tmp_path / "repaired" / "report.json").read_text())
    assert report["verdict"]["status"] in ("fixed", "improved")
    assert (tmp_path / "repaired" / "repaired.pt").exists()


@pytest.mark.parametrize("kind", ["Mlp", "Tokens", "Two"])
def test_evaluate_is_ready_to_be_filled_in(
    subject: Callable[..., str], nets: Path, tmp_path: Path, kind: str
) -> None:
    before, _, rest = with_data(subject(f"{nets}:{kind}")).partition("# FILL IN, if you like")
    code = [line.removeprefix("# ").rstrip("#") for line in rest.partition("\n#\n")[2].splitlines()]
    one = "batches[:2]" if kind == "Tokens" else "batches[0]"
    held_out = f"def held_out():\n    batches = build_data()\n    return {one}\n"
    (tmp_path / "filled.py").write_text("\n".join([before, held_out, *code, ""]))
    loaded = load_subject("filled.py")
    assert loaded.evaluate is not None
    (name, value), *_ = loaded.evaluate(loaded.build_model()).items()
    assert value >= 0
    assert (name, loaded.higher_is_better) == (
        ("loss", None) if kind == "Tokens" else ("accuracy", True)
    )
