"""Running a cell again: where, what is compared, and what makes it fail."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import execute as worker
from experiments.config import build_config
from experiments.errors import UserError
from experiments.run_config import RunConfig
from experiments.store import RunStore
from reports import commands
from reports.records import Record
from reports.reproduce import compare_metrics, reproduce
from reports.subject import Subject
from tests.reports import fakes

METRICS = {"fd_efflite0": 120.0, "kid_efflite0": 0.0004, "kid_efflite0_std": 0.002, "seconds_per_image": 0.1}


def finish(config: RunConfig, **changes: float) -> None:
    """Leave what a run and its evaluation leave."""
    run = RunStore(config.root).prepare(config)
    evaluation = run.prepare_evaluation(config)
    steps = config.trainer.max_steps
    origin = {"seed": config.seed, "versions": {"torch": "2.9.0"}}
    result: dict[str, Any] = {"step": steps, "max_steps": steps, "parameters": 1000, "provenance": origin}
    run.result_path.write_text(json.dumps({**result, "metrics": {"val/loss": changes.pop("val/loss", 3.0)}}))
    measured = {"metrics": {**METRICS, **changes}, "protocol": {"num_samples": 36}, "provenance": origin}
    evaluation.result_path.write_text(json.dumps(measured))


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """One finished cell with a configuration that can be read back."""
    root = tmp_path / "outputs"
    raw = {"generator": {"width": 32, "heads": 2, "depth": 2}, "runtime": {"root": str(root)}}
    config = build_config(raw)
    finish(config)
    (run,) = RunStore(root).runs()
    (evaluation,) = run.evaluations()
    cell = fakes.cell_of({"hybrid_scheme": "serial_v2"})
    return fakes.subject(root, [replace(cell, run_id=run.id, eval_id=evaluation.id)])


def again(monkeypatch: pytest.MonkeyPatch, **changes: float) -> list[RunConfig]:
    """Let the second run measure this; returns what it was asked to run."""
    asked: list[RunConfig] = []

    def execute(configs: list[RunConfig]) -> None:
        asked.extend(configs)
        finish(configs[0], **changes)

    monkeypatch.setattr(worker, "execute", execute)
    return asked


def test_it_runs_elsewhere_and_agrees(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = again(monkeypatch, seconds_per_image=9.9, fd_efflite0=120.5)
    found = reproduce(subject, "serial_v2", tmp_path / "elsewhere")
    assert asked[0].root == tmp_path / "elsewhere" and found.folder.is_relative_to(tmp_path / "elsewhere")
    assert not found.differing, "half a percent agrees, and time is no result"
    remarks = {line.name: line.remark for line in found.lines}
    assert remarks["seconds_per_image"] == "cost, not compared" and remarks["kid_efflite0"] == "equal"
    assert not found.surroundings


def test_metrics_that_differ_are_named_and_fail(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again(monkeypatch, fd_efflite0=130.0, kid_efflite0=0.00041, **{"val/loss": 3.2})
    monkeypatch.setattr(commands, "load_subject", lambda *_: subject)
    assert commands.reproduce("any", "serial_v2", into=tmp_path / "elsewhere") == 1
    assert "Differs beyond 1.0%: Val loss (nats), FD-EffLite0." in capsys.readouterr().out
    shutil.rmtree(tmp_path / "elsewhere")
    assert commands.reproduce("any", "serial_v2", into=tmp_path / "elsewhere", tolerance=0.1, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["differing"] == []


def test_a_metric_that_is_gone_differs_and_a_new_one_or_a_cost_does_not() -> None:
    cell = fakes.cell_of({"hybrid_scheme": "serial_v2"})

    def lines(then: dict[str, float], now: dict[str, float]) -> dict[str, tuple[bool, str]]:
        records = [Record(cell.name, cell.labels, {}, 0, "run", "eval", metrics) for metrics in (then, now)]
        return {line.name: (line.differs, line.remark) for line in compare_metrics(*records, 0.01)}

    then = {"fid": 3.5, "is": 250.0, "val/loss": 4.0, "peak_memory_bytes": 1.0, "parameters": 10.0}
    now = {"val/loss": math.nan, "parameters": 10.0, "kid": 1.0}
    assert lines(then, now) == {
        "fid": (True, "not measured now"),
        "is": (True, "not measured now"),
        "val/loss": (True, "not finite now"),
        "peak_memory_bytes": (False, "cost, not compared"),
        "parameters": (False, "equal"),
        "kid": (False, "not measured then"),
    }


def test_without_a_place_it_makes_a_new_one_each_time(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    again(monkeypatch)
    places = {reproduce(subject, "serial_v2").folder for _ in range(2)}
    assert len(places) == 2 and all(path.is_relative_to(subject.root / "reproduced") for path in places)


def test_an_interrupted_one_goes_on_where_it_was(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def interrupted(configs: list[RunConfig]) -> None:
        places.append(configs[0].root)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "execute", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(subject, "serial_v2")
    (record,) = subject.records
    assert places == [subject.root / "reproduced" / f"{record.run_id}-{record.eval_id}"] * 2
    asked = again(monkeypatch)
    reproduce(subject, "serial_v2")
    assert asked[0].root == places[0]


def test_it_runs_on_what_is_asked_for(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran on eight GPUs of a cluster runs elsewhere; how often it is validated stays as it was."""
    (record,) = subject.records
    typed = {"runtime.devices": "2", "runtime.device": "cpu", "runtime.root": "any", "runtime.val_every": 7}
    asked = again(monkeypatch)
    reproduce(replace(subject, records=(replace(record, overrides=typed),)), "serial_v2")
    runtime = asked[0].runtime
    assert (runtime.devices, runtime.device, runtime.val_every) == (2, "cpu", 200)
    assert Path(runtime.root).is_relative_to(subject.root / "reproduced")


def test_what_cannot_be_reproduced_is_refused(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again(monkeypatch)
    with pytest.raises(UserError, match="where the cell itself is"):
        reproduce(subject, "serial_v2", subject.root)
    reproduce(subject, "serial_v2", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="holds this evaluation already"):
        reproduce(subject, "serial_v2", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not finished"):
        reproduce(fakes.subject(tmp_path), "serial_v2")
    record = subject.find("serial_v2")
    assert record.evaluation is not None
    path = record.evaluation.config_path
    path.write_text(path.read_text().replace("depth: 2", "depth: 4"))
    with pytest.raises(UserError, match="another run today"):
        reproduce(subject, "serial_v2", tmp_path / "third")
