"""Scripts of many styles train as without the monitor, bit for bit, and are recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gradscope.store import Run, open_run

SCRIPTS = Path(__file__).with_name("scripts")
COMMAND = str(Path(sys.executable).with_name("gradscope"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
if sys.platform == "linux":
    # Otherwise gloo looks for the address that the host's name resolves to, if to any.
    ENVIRONMENT["GLOO_SOCKET_IFNAME"] = "lo"
SECONDS = 300

TRAINED = {
    "loop": (30, ["0", "1", "3"]),
    "functions --epochs 2 --debug": (16, ["body", "::relu@0", "head"]),
    "gan": (25, ["netD.1", "netG.1"]),
    "amp": (25, ["0", "1", "2"]),
    "language_model": (29, ["lstm", "decoder"]),
    "vae": (25, ["encoder.1", "decoder.1"]),
    "reinforcement": (25, ["policy.0", "policy.1", "policy.2", "value"]),
    "lightning_module": (24, ["body.0", "body.1", "head"]),
    "hf_trainer": (12, ["transformer.h.0.mlp.act", "transformer.h.1.mlp.act"]),
    "lbfgs": (22, ["0", "1", "2"]),
    "folds": (20, ["0", "1", "2"]),
    "workers fork": (8, ["0", "1", "2"]),
    "--model=netG gan": (25, ["0", "1", "2"]),
    "--model=Net functions": (8, ["body", "::relu@0", "head"]),
}
"""How many steps a script takes, and some of the sites in it. By its name, with its arguments;
before it may stand an option of gradscope's."""

ENDED = {
    "raises": (1, "RuntimeError"),
    "backward": (1, "RuntimeError"),
    "exits": (3, "SystemExit"),
    "says": (1, "SystemExit"),
    "interrupted": (-2, "KeyboardInterrupt"),
}
"""By what ``fails.py`` does: its exit status, and why the run ended."""


@dataclass(frozen=True)
class Ended:
    """One way of running a script."""

    folder: Path
    status: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """What gradscope has said."""
        return [line for line in self.err.splitlines() if line.startswith("gradscope: ")]

    def weights(self, name: str = "weights.pt") -> list[Any]:
        """What the script has saved: states of its models, and of the random numbers."""
        saved = torch.load(self.folder / name)
        return [
            tensor
            for each in saved
            for tensor in (each.values() if isinstance(each, dict) else [each])
        ]

    @property
    def run(self) -> Run:
        return open_run(self.folder / "run.gradscope")


def started(folder: Path, *command: str) -> Ended:
    """A process of its own."""
    folder.mkdir(parents=True)
    (folder / "settings.txt").write_text("as they are")
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS
    )
    return Ended(folder, done.returncode, done.stdout, done.stderr)


def same(plain: Ended, run: Ended, name: str = "weights.pt") -> bool:
    pairs = zip(plain.weights(name), run.weights(name), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the results of the quick ones lie."""
    folder = tmp_path_factory.mktemp("forked")
    jobs = [*TRAINED, *(f"fails {how}" for how in ENDED)]
    started(folder / "driver", sys.executable, str(SCRIPTS / "forked.py"), str(folder), *jobs)
    return folder


def of(forked: Path, job: str) -> tuple[Ended, Ended]:
    plain, run = (
        Ended(
            folder,
            int((folder / "status").read_text()),
            (folder / "stdout").read_text(),
            (folder / "stderr").read_text(),
        )
        for folder in (forked / job.replace(" ", "-") / how for how in ("plain", "run"))
    )
    return plain, run


@pytest.mark.parametrize("job", TRAINED)
def test_a_script_trains_as_ever_and_is_recorded(forked: Path, job: str) -> None:
    plain, run = of(forked, job)
    assert (plain.status, run.status) == (0, 0), run.err
    assert same(plain, run)
    if job != "hf_trainer":
        # Of which the last line says how long it took.
        assert run.out == plain.out
    steps, sites = TRAINED[job]
    with run.run as recorded:
        assert (recorded.last_step, recorded.ended) == (steps - 1, "")
        names = [site.name for site in recorded.layout.sites]
        assert [name for name in names if name in sites] == sites, names
        _, losses = recorded.losses()
        assert len(losses) == steps
    assert f"{steps} steps of" in run.said[0]
    assert "run.gradscope" in run.said[0]


def test_losses_are_those_that_the_gradients_follow(forked: Path) -> None:
    def losses(job: str) -> list[float]:
        with of(forked, job)[1].run as recorded:
            return recorded.losses()[1].tolist()

    _, loop = of(forked, "loop")
    printed = [float(line.split()[1]) for line in loop.out.splitlines()]
    assert losses("loop")[::10] == pytest.approx(printed)
    # Four batches of a fourth each, the loss scale undone; the step that was skipped counts alone.
    amp = losses("amp")
    assert [step for step, loss in enumerate(amp) if loss == float("inf")] == [12]
    assert all(0 < loss < 20 for step, loss in enumerate(amp) if step != 12)
    # Both halves of the discriminator's batch and the generator's: three times ln 2 at first.
    assert losses("gan")[0] == pytest.approx(3 * 0.693, rel=0.2)
    # Of LBFGS the first evaluation of each step: what the step returns.
    _, lbfgs = of(forked, "lbfgs")
    assert losses("lbfgs")[-1] == pytest.approx(float(lbfgs.out))


def test_several_models_are_named_as_the_script_does(forked: Path) -> None:
    assert "steps of netD, netG in" in of(forked, "gan")[1].said[0]
    assert "steps of policy, value in" in of(forked, "reinforcement")[1].said[0]
    assert "steps of VAE in" in of(forked, "vae")[1].said[0]
    assert "steps of Classifier in" in of(forked, "lightning_module")[1].said[0]


@pytest.mark.parametrize("how", ENDED)
def test_a_script_fails_in_the_same_way(forked: Path, how: str) -> None:
    plain, run = of(forked, f"fails {how}")
    status, ended = ENDED[how]
    assert (plain.status, run.status) == (status, status)
    assert same(plain, run)
    assert run.out == plain.out == "trained\n"
    assert printed(run.err) == printed(plain.err)
    with run.run as recorded:
        assert (recorded.last_step, recorded.ended) == (4, ended)


def printed(err: str) -> list[str]:
    """Messages and frames of a traceback, without what gradscope says before and the code."""
    lines = [line for line in err.splitlines() if line.startswith("  File") or line[:1] != " "]
    # The plain ones were started in this file. While a step is sampled torch calls a module
    # through one more function of its own.
    strange = ("/forked.py", "torch/nn/modules/module.py")
    return [
        line
        for line in lines
        if not line.startswith("gradscope: ") and not any(each in line for each in strange)
    ]


def test_a_script_finds_itself_where_python_would_have_put_it(tmp_path: Path) -> None:
    script = os.path.relpath(SCRIPTS / "place.py", tmp_path / "run")
    plain = started(tmp_path / "plain", sys.executable, script, "--help", "--", "a b")
    run = started(tmp_path / "run", COMMAND, "run", script, "--help", "--", "a b")
    assert (plain.status, run.status) == (0, 0), run.err
    assert run.out.replace(str(run.folder), "HERE") == plain.out.replace(str(plain.folder), "HERE")
    assert same(plain, run)
    assert "5 steps of Net in run.gradscope" in run.said[0]


def test_workers_that_are_started_anew_find_the_script(forked: Path, tmp_path: Path) -> None:
    run = started(tmp_path / "run", COMMAND, "run", str(SCRIPTS / "workers.py"), "spawn")
    assert (run.status, run.out.split()[0]) == (0, "spawn"), run.err
    assert same(of(forked, "workers fork")[0], run)
    assert len(run.said) == 1
    with run.run as recorded:
        assert recorded.last_step == 7


def test_under_torchrun_the_first_process_records(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    script = str(SCRIPTS / "distributed.py")
    plain = started(tmp_path / "plain", *launch, script)
    run = started(tmp_path / "run", *launch, "-m", "gradscope.cli", "run", script)
    assert (plain.status, run.status) == (0, 0), run.err
    # Two processes share the output, and may write into each other's lines.
    assert sorted(run.out) == sorted(plain.out)
    assert same(plain, run, "weights-0.pt")
    assert same(plain, run, "weights-1.pt")
    assert len(run.said) == 1
    assert "25 steps of Sequential in run.gradscope" in run.said[0]
    with run.run as recorded:
        assert (recorded.last_step, recorded.info.processes) == (24, 2)
        assert len(recorded.layout.sites) == 3


def test_a_script_without_torch_runs_without_it(tmp_path: Path) -> None:
    run = started(tmp_path / "run", COMMAND, "run", str(SCRIPTS / "without_torch.py"), "--every")
    assert (run.status, run.out) == (0, "False ['--every']\n")
    assert "has not imported torch" in run.err
    assert not (run.folder / "run.gradscope").exists()


def test_a_module_runs_as_one(tmp_path: Path) -> None:
    (tmp_path / "run" / "package").mkdir(parents=True)
    package = tmp_path / "run" / "package"
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\nfrom package import __file__ as of\nprint(sys.argv, __spec__.name, "
        "__package__, sys.path[0], __file__)\n"
    )
    outs = [
        subprocess.run(
            [*command, "-m", "package", "-x"], cwd=tmp_path / "run", capture_output=True, text=True
        ).stdout
        for command in ([sys.executable], [COMMAND, "run"])
    ]
    assert outs[0] == outs[1] != ""


def test_of_several_models_one_is_chosen(forked: Path) -> None:
    with of(forked, "--model=netG gan")[1].run as recorded:
        assert (recorded.info.optimizers, recorded.info.parameters) == (("Adam",), 114)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.py"], "absent.py cannot be run: there is no such file"),
        (["."], "is a folder"),
        (["-m", "no_such_module"], "Module no_such_module cannot be run"),
        (["--overhead", "2", "x.py"], "--overhead is 2"),
        (["--store", "no/such/place.gradscope", "x.py"], "cannot be written"),
    ],
)
def test_what_cannot_be_run_is_told(gradscope: Any, arguments: list[str], told: str) -> None:
    run = gradscope("run", *arguments)
    assert run.status == 2
    assert told in run.err
