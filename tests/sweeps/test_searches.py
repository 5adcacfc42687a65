"""Sweeps that search: they take the chosen values over, count every device second once, and refuse wrong searches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.run_config import RunConfig
from experiments.search.loop import chosen_config, take_part
from experiments.store import Run, RunStore
from reports.records import collect
from reports.searches import search_notes
from sweeps import actions
from sweeps.planner import plan
from sweeps.table import device_time
from tests.sweeps.steps import SEARCHER, Make

GUIDANCE = {"key": "sampler.guidance", "low": 1.0, "high": 9.0}
MASKING = {"key": "objective.mask_ratio_low", "low": 0.1, "high": 0.9}


def test_a_sweep_takes_the_chosen_values_over(
    make_sweep: Make,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEARCH_WORKER_LOG", str(tmp_path / "log"))
    space = [{"key": "sampler.guidance", "low": 1.0, "high": 4.0, "step": 0.5}]
    first = [{"sampler.guidance": value} for value in (2.5, 1.0, 4.0)]
    path = make_sweep(
        axes=[{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v2"]}],
        search={"space": space, "first": first, "trials": 3},
        report={"rows": "scheme", "columns": ["chosen/sampler.guidance"]},
    )
    planned = plan(path)
    assert [(state.state, state.part) for state in planned.states().values()] == [("missing", "training")]
    run = RunStore(root).prepare(planned.cells[0].config)
    with run.claim():
        run.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    assert [state.describe() for state in plan(path).states().values()] == ["not searched"]
    assert actions.run(path, worker=SEARCHER) == 0
    (cell,) = plan(path).cells
    assert cell.config.sampler.guidance == 2.5 and cell.run_id == run.id and cell.eval_id
    (record,) = collect([cell], root)
    assert record.metrics.items() >= {"fd_efflite0": 2.5, "chosen/sampler.guidance": 2.5}.items()
    assert search_notes([record]) == [
        "serial_v2 seed0: guidance 2.5, the best of 3 trials (FD-EffLite0 0.0 on other samples than the table's)."
    ]
    assert actions.run(path, worker=SEARCHER) == 0, "and is not searched again"
    assert len((tmp_path / "log").read_text().splitlines()) == 3
    assert json.loads((plan(path).folder / "plan.json").read_text())["cells"][0]["search_id"]


@pytest.mark.parametrize(
    ("key", "at_third", "at_end"), [("sampler.guidance", 240.0, 347.0), ("optim.lr", 280.0, 427.0)]
)
def test_device_time_has_every_trial_and_no_training_twice(
    make_sweep: Make,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    at_third: float,
    at_end: float,
) -> None:
    """A training takes 40 s, all else of a trial 100 s, the evaluation at the end 7 s."""
    path = make_sweep(
        axes=[{"name": "scheme", "key": "generator.hybrid_scheme", "values": ["serial_v2"]}],
        search={"space": [{"key": key, "low": 1.0, "high": 4.0}], "trials": 3},
        report={},
    )
    store, later, clock = RunStore(root), [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: clock() + later[0])

    def spent() -> float:
        planned = plan(path)
        return device_time(planned, planned.states())

    def train(made: RunConfig) -> Run:
        run = store.prepare(made)
        with run.claim() as mine:
            if mine:
                later[0] += 40
                run.write_result({"step": 10, "max_steps": 10, "metrics": {}})
        return run

    def measure(made: RunConfig, trial: Any) -> dict[str, float]:
        if trial.number == 2:
            assert spent() == pytest.approx(at_third, abs=5)
        train(made)
        later[0] += 100
        return {"fd_efflite0": float(trial.number)}

    (cell,) = plan(path).cells
    if not cell.config.search.trains:  # what all trials share
        train(cell.config)
    chosen = chosen_config(cell.config, (take_part(cell.config, measure).result() or {})["chosen"])
    evaluation = train(chosen).prepare_evaluation(chosen)
    with evaluation.claim():
        later[0] += 7
        evaluation.write_result({"metrics": {"fd_efflite0": 1.0}})
    (record,) = collect(plan(path).cells, root)
    assert [spent(), record.metrics["device_seconds"]] == pytest.approx([at_end, at_end], abs=5)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": [{"key": "sampler.guidence", "values": [1, 2]}]}, "Did you mean: 'guidance'"),
        ({"space": [{"key": "sampler.guidance"}]}, "needs either 'values', or numbers"),
        (
            {"space": [{"key": "sampler.guidance", "values": [1, 2], "low": 5, "step": 3}]},
            "needs either 'values', or numbers",
        ),
        ({"space": [GUIDANCE], "pruner": "median"}, "nothing of the training is searched"),
        (
            {"space": [MASKING], "metric": "val/loss"},
            "search.metric=val/loss: trials with another objective.mask_ratio_l",
        ),
        ({"space": [MASKING], "pruner": "median"}, "say nothing; set search.pruner=none"),
        ({"space": [GUIDANCE], "metric": "parameters"}, "not a metric that is better lower or higher"),
        ({"space": [GUIDANCE], "first": [{"sampler.steps": 1}]}, "must give a value to each of sampler.guidance"),
        ({"space": [{"key": "sampler.steps", "low": 0, "high": 3}]}, "must be at least 1"),
        ({"space": [{"key": "sampler.steps", "low": 1, "high": 3, "step": 0}]}, "step=0; it must be a number above 0"),
        ({"spaec": []}, "spaec"),
    ],
)
def test_wrong_searches_are_one_sentence(
    make_sweep: Make,
    root: Path,
    search: dict,
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        plan(make_sweep(search=search))


def test_trials_that_are_trainings_run_in_one_process(make_sweep: Make) -> None:
    path = make_sweep(search={"space": [{"key": "optim.lr", "low": 1e-4, "high": 1e-2}]})
    assert plan(path).cells
    with pytest.raises(UserError, match="runs one process a trial, not 2: set runtime.devices=1"):
        plan(path, "demo", ["runtime.devices=2"])
