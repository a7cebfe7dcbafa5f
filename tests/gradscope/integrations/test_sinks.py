"""Sinks fed by a real monitor, read back with the real libraries."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.errors import UsageError
from gradscope.integrations.jsonl import JSONL
from gradscope.integrations.sink import Sink
from gradscope.monitor import Monitor, Sampled
from gradscope.severity import Severity
from gradscope.training import STEP_MEASURES, Alert, Layout, WatchedParameter, WatchedSite

STEPS = 5
NAMES = {
    "gradscope/loss",
    "gradscope/gradient_norm",
    "gradscope/used_norm",
    "gradscope/learning_rate",
    "gradscope/backward_rms/0.linear",
    "gradscope/backward_rms/0::relu@0",
    "gradscope/backward_rms/1",
    "gradscope/dead/0::relu@0",
}

OPENED = Alert(
    code="GS201",
    name="dead-relu",
    severity=Severity.WARNING,
    sites=("0::relu@0",),
    message="Half of its units are dead.",
    values={"dead": 0.5, "limit": float("nan")},
    cause=None,
    step=2,
)
CLOSED = Alert(**{**{name: getattr(OPENED, name) for name in OPENED.__slots__}, "closed": 3})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.linear.bias.data[2] = -100.0  # dead

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def train(sink: Any) -> list[Sampled]:
    """A short training whose samples go to the sink, and two findings beside."""
    samples: list[Sampled] = []
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(
        model, optimizer, store=None, every=1, overhead=None, on_sample=[sink, samples.append]
    ) as monitor:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model(torch.randn(1200, 4)).pow(2).mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    sink.finding(OPENED)
    sink.finding(CLOSED)
    sink.close()
    return samples


def expected(samples: list[Sampled], name: str) -> dict[int, float]:
    """The numbers of that name, by step; none where it was not measured."""
    _, measure, *site = name.split("/")
    layout = samples[-1].layout
    column = STEP_MEASURES.index(measure) if measure in STEP_MEASURES else -1
    if site:
        column = layout.site_column([it.name for it in layout.sites].index(site[0]), measure)
    values = {sample.step: float(sample.row[column]) for sample in samples}
    if name == "gradscope/loss":
        values = {sample.step: float(sample.losses.mean()) for sample in samples}
    return {step: pytest.approx(it, rel=1e-6) for step, it in values.items() if it == it}


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from gradscope.integrations.tensorboard import TensorBoard

    samples = train(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == NAMES
    for name in NAMES:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == expected(samples, name)
    assert events.Scalars("gradscope/dead/0::relu@0")[-1].value == pytest.approx(1 / 6)
    texts = events.Tensors("gradscope/findings/text_summary")
    assert [text.step for text in texts] == [2, 3]
    assert b"GS201 dead-relu (0::relu@0), from step 2" in texts[0].tensor_proto.string_val[0]


def test_tensorboard_leaves_a_given_writer_open(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from gradscope.integrations.tensorboard import TensorBoard

    writer = SummaryWriter(str(tmp_path))
    with TensorBoard(writer, measures=(), most_sites=1) as sink:
        sink(wide(3))
    writer.add_scalar("mine", 1.0, 0)
    assert writer.all_writers is not None
    writer.close()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    from gradscope.integrations.wandb import WandB

    for name, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with pytest.raises(UsageError, match=r"call wandb\.init\(\)"):
        WandB()
    with wandb.init(project="gradscope", dir=str(tmp_path)) as run:
        samples = train(WandB())
        run.log({"mine": 1.0})
        assert run.step == len(samples) + 1  # one for each sample
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = whole_run(file)
    rows = [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    rows = [row for row in rows if "gradscope/step" in row]
    for name in NAMES:
        found = {row["gradscope/step"]: row[name] for row in rows if name in row}
        assert found == expected(samples, name)
    (alert,) = [it.alert for it in records if it.WhichOneof("record_type") == "alert"]
    assert (alert.title, alert.level) == ("GS201 dead-relu", "WARN")
    metrics = [it.metric for it in records if it.WhichOneof("record_type") == "metric"]
    assert ("gradscope/*", "gradscope/step") in [(it.glob_name, it.step_metric) for it in metrics]


def whole_run(file: Path) -> list[Any]:
    """Records up to the one that ends the run, which another process writes after this one."""
    until = time.monotonic() + 60
    while True:
        records = list(wandb_records(file.read_bytes()))
        if records and records[-1].WhichOneof("record_type") in ("exit", "footer"):
            return records
        assert time.monotonic() < until, "the run never ended"
        time.sleep(0.1)


def wandb_records(data: bytes) -> Iterator[Any]:
    """Records of an offline run: LevelDB's log format, in blocks of 32 KiB after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, gathered = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        gathered += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(gathered)
            gathered = b""


def test_mlflow_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    import mlflow

    from gradscope.integrations.mlflow import MLflow

    with pytest.raises(UsageError, match=r"call mlflow\.start_run\(\)"):
        MLflow()
    with mlflow.start_run() as run:
        sink = MLflow()
        samples = train(sink)
    stored = {name.replace("::", "__").replace("@", "_"): name for name in NAMES}
    assert set(sink.client.get_run(run.info.run_id).data.metrics) == set(stored)
    for key, name in stored.items():
        history = sink.client.get_metric_history(run.info.run_id, key)
        assert {metric.step: metric.value for metric in history} == expected(samples, name)
    (written,) = (tmp_path / "runs").rglob("findings.txt")
    assert written.read_text().splitlines() == [
        "warning GS201 dead-relu (0::relu@0), from step 2 to 3: Half of its units are dead."
    ]


def test_jsonl_holds_all_that_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "made" / "run.jsonl"
    samples = train(JSONL(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["sample"] * len(samples) + ["finding"] * 2
    for sample, line in zip(samples, lines, strict=False):
        assert line["step"] == sample.step
        np.testing.assert_allclose(line["losses"], sample.losses)
        numbers = [line[name] for name in STEP_MEASURES]
        for table in ("sites", "parameters"):
            for record in getattr(sample.layout, table):
                numbers += line[table][record.name].values()
        np.testing.assert_array_equal(np.array(numbers, dtype=np.float32), sample.row)
    assert lines[-1]["closed"] == 3
    assert lines[-1]["values"] == {"dead": 0.5, "limit": None}
    JSONL(path).close()
    assert len(path.read_text().splitlines()) == len(lines)


def wide(sites: int) -> Sampled:
    layout = Layout(
        tuple(WatchedSite(f"act{i}", "hidden", "relu", (4,), 0) for i in range(sites)),
        (WatchedParameter("weight", (2,)),),
    )
    row = np.arange(layout.columns, dtype=np.float32)
    row[0] = np.inf
    return Sampled(7, row, layout, np.array([1.0, np.nan, 3.0], dtype=np.float32))


def test_of_many_sites_some_are_told_evenly_spaced() -> None:
    numbers = Sink(measures=("dead",), most_sites=5).scalars(wide(101))
    assert [name for name in numbers if "dead" in name] == [
        f"gradscope/dead/act{site}" for site in (0, 25, 50, 75, 100)
    ]
    assert numbers["gradscope/loss"] == 2.0
    assert len(Sink().scalars(wide(200))) == 4 + 2 * 40
    assert len(Sink().scalars(wide(1))) == 4 + 2
    assert len(Sink().scalars(wide(0))) == 4


def test_numbers_that_json_has_no_word_for(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with JSONL(path) as sink:
        sink(wide(1))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["loss"] == "Infinity"
    assert line["losses"] == [1.0, None, 3.0]


@pytest.mark.parametrize(
    ("chosen", "told"),
    [({"measures": ["dead", "rms"]}, "'rms': there are forward_rms"), ({"most_sites": 0}, "is 0")],
)
def test_what_cannot_be_chosen(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Sink(**chosen)


def test_a_sink_that_fails_warns_once_and_lets_the_training_go_on(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    sink = JSONL(tmp_path / "taken" / "run.jsonl")
    with pytest.warns(RuntimeWarning, match="JSONL takes nothing more: .*taken") as told:
        samples = train(sink)
    assert len(samples) >= STEPS - 1
    assert len(told) == 1


def test_of_several_processes_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (1, 0):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        with JSONL(tmp_path / f"{rank}.jsonl") as sink:
            sink(wide(1))
            sink.finding(OPENED)
    assert [path.name for path in tmp_path.iterdir()] == ["0.jsonl"]
