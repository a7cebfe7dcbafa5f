"""A run of real checkpoints, in which units die in the middle."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gradscope.errors import CheckpointError, UsageError
from gradscope.records import Report, Severity
from gradscope.trajectories import scan_checkpoints
from gradscope.trajectory import Snapshot, histories

EVERY = 60
KILLED = 170


def network(width: int = 32) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints; from the third on most units of a layer get no gradient."""
    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for step in range(1, 5 * EVERY + 1):
            inputs = torch.randn(32, 12)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)).backward()
            optimizer.step()
            if step == KILLED:
                with torch.no_grad():
                    model[2].bias[:24] -= 30
            if step % EVERY == 0:
                # SGD does not count its steps: the file does.
                kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**kept, "step": step}, folder / f"{step // EVERY}.pt")
    return folder


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def scanned(folder: Path, **options: object) -> Report:
    return scan_checkpoints(sorted(folder.iterdir()), **options)  # type: ignore[arg-type]


def snapshots(report: Report) -> tuple[Snapshot, ...]:
    assert report.profile is not None
    return report.profile.trajectory


def change(file: Path, edit: Callable[[dict[str, object]], object]) -> None:
    kept = torch.load(file, weights_only=True)
    edit(kept)
    torch.save(kept, file)


def test_a_finding_tells_since_when_it_is_there(run: Path) -> None:
    report = scanned(run)
    (finding,) = report.findings
    assert finding.code == "GS201"
    assert finding.message.endswith("are affected. Since step 240, in 2 of 5 checkpoints.")
    seen = snapshots(report)
    assert [one.step for one in seen] == [60, 120, 180, 240, 300]
    assert [len(one.findings) for one in seen] == [0, 0, 0, 1, 1]
    assert seen[-1].findings[0].severity is finding.severity
    assert seen[-1].findings[0].values == {
        name: measure.value for name, measure in finding.evidence.items()
    }
    assert seen[2].inactive < 0.5 < seen[3].inactive == pytest.approx(24 / 32)
    assert all(one.gradient_first > 0 and one.gradient_last > 0 for one in seen)
    assert all(0 < one.scale_low <= one.scale_high for one in seen)
    assert report.profile is not None
    assert report.profile.stored is not None
    assert report.profile.stored.step == 300
    assert report.target.kind == "5 checkpoints of one run"


def test_what_is_gone_is_no_finding_and_stays_in_the_history(run: Path) -> None:
    torch.save(torch.load(run / "1.pt", weights_only=True) | {"step": 360}, run / "6.pt")
    report = scanned(run)
    assert report.findings == ()
    (history,) = histories(snapshots(report))
    assert history.seen == (False, False, False, True, True, False)
    assert (history.first, history.last, history.lasts, history.unbroken) == (3, 4, False, False)
    assert history.severity is Severity.WARNING


def test_order_is_by_the_step_that_a_checkpoint_tells(run: Path) -> None:
    (run / "5.pt").rename(run / "0.pt")
    (run / "4.pt").rename(run / "last.pt")
    assert [one.name for one in snapshots(scanned(run))] == [
        "1.pt", "2.pt", "3.pt", "last.pt", "0.pt"
    ]  # fmt: skip


def test_files_that_tell_no_step_stand_where_their_names_put_them(run: Path) -> None:
    for name in ("best.pt", "2.pt", "final.pt"):
        shutil.copy(run / "3.pt", run / name)
        change(run / name, lambda kept: kept.pop("step"))
    names = [one.name for one in snapshots(scanned(run))]
    assert names == ["best.pt", "1.pt", "2.pt", "3.pt", "4.pt", "5.pt", "final.pt"]


def test_what_the_newest_does_not_tell_comes_from_the_newest_that_does(run: Path) -> None:
    change(run / "5.pt", lambda kept: kept.pop("optimizer"))
    report = scanned(run)
    (finding,) = report.findings
    assert finding.message.endswith("Since step 240, in 1 of 4 checkpoints.")
    assert any(
        "GS201" in skip.what and skip.reason.startswith("5.pt does not tell; 4.pt does")
        for skip in report.skipped
    )
    (history,) = histories(snapshots(report))
    assert history.seen[-2:] == (True, None)
    assert history.lasts


def test_checkpoints_of_two_models_are_refused(run: Path) -> None:
    torch.save(network(31).state_dict(), run / "other.pt")
    with pytest.raises(CheckpointError) as error:
        scanned(run)
    assert str(error.value) == (
        "other.pt and 5.pt are not of one model: 0.weight is [31, 12] in the former, [32, 12] in "
        "the latter; scan the checkpoints of each model by themselves."
    )
    change(run / "5.pt", lambda kept: kept["model"].pop("2.bias"))  # type: ignore[attr-defined]
    (run / "other.pt").unlink()
    with pytest.raises(CheckpointError, match=r"5\.pt and 4\.pt .*: only the latter has 2\.bias;"):
        scanned(run)


def test_what_cannot_be_read_is_skipped_and_said(run: Path) -> None:
    (run / "4.pt").write_bytes((run / "4.pt").read_bytes()[:3000])
    report = scanned(run)
    (finding,) = report.findings
    assert finding.message.endswith("Since step 300, in 1 of 4 checkpoints.")
    (left,) = [one for one in snapshots(report) if one.unread]
    assert left.name == "4.pt"
    assert report.skipped[-1].what == "4.pt"
    assert report.skipped[-1].reason == left.unread
    assert str(run / "4.pt") in left.unread


def test_where_none_can_be_read_that_is_an_error(run: Path) -> None:
    for file in run.iterdir():
        file.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"None of 5 checkpoints could be read\.$"):
        scanned(run)


def test_rules_are_chosen_as_for_one(run: Path) -> None:
    assert scanned(run, ignore=["GS201"]).findings == ()
    assert all(not one.findings for one in snapshots(scanned(run, select=["GS1"])))
    with pytest.raises(UsageError):
        scanned(run, select=["GS999"])


def test_links_to_other_checkpoints_are_left_out(run: Path) -> None:
    (run / "last.pt").symlink_to(run / "5.pt")
    assert len(snapshots(scanned(run))) == 5


class Deadly:
    """What kills the process that trusts it."""

    def __reduce__(self) -> object:
        return exec, ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",)


def test_other_processes_find_the_same_and_may_die(run: Path) -> None:
    def read(report: Report) -> list[Snapshot]:
        return [one for one in snapshots(report) if not one.unread]

    alone = scanned(run, processes=1)
    torch.save({"model": network().state_dict(), "bomb": Deadly()}, run / "0.pt")
    told: list[float] = []
    report = scanned(
        run, processes=2, trust_pickle=True, progress=lambda _, share: told.append(share)
    )
    assert report.findings == alone.findings
    for one, other in zip(read(report), read(alone), strict=True):
        assert (one.name, one.step, one.findings) == (other.name, other.step, other.findings)
        # One thread adds up in another order than several.
        assert one.gradient_first == pytest.approx(other.gradient_first)
        assert one.scale_high == pytest.approx(other.scale_high)
    (left,) = [one for one in snapshots(report) if one.unread]
    assert left.name == "0.pt"
    assert "The process that read it ended (signal 9)" in left.unread
    assert told == sorted(told)
    assert math.isclose(told[-1], 1.0)
