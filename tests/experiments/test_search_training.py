"""A search over a training key: every trial is a training, and a hopeless one is ended by its validation loss."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from experiments.config import load_config
from experiments.errors import UserError
from experiments.identity import search_id
from experiments.run_config import RunConfig
from experiments.search.loop import take_part
from experiments.search.run import measure, search_and_execute
from experiments.store import RunStore

SMALL = {
    "data.subset": 64,
    "generator.width": 32,
    "generator.heads": 2,
    "generator.depth": 2,
    "trainer.max_steps": 4,
    "trainer.batch_size": 8,
    "trainer.ema_decay": 0,
    "runtime.val_every": 2,
    "runtime.sample_every": 0,
    "runtime.progress": False,
    "runtime.device": "cpu",
}


def test_a_hopeless_training_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {
        "search.space": [{"key": "optim.lr", "low": 1e-4, "high": 1e-2, "log": True}],
        "search.first": [{"optim.lr": 1e-3}, {"optim.lr": 2e-4}],
        "search.trials": 2,
        "search.metric": "val/loss",
        "search.pruner": "median",
    }
    made = load_config("maskmamba/demo", {**SMALL, **search, "runtime.root": str(tmp_path)})
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    found = take_part(made, measure).result()
    assert found and [trial["outcome"] for trial in found["trials"]] == ["complete", "pruned"]
    assert found["chosen"] == {"optim.lr": 1e-3} and found["metrics"]["val/loss"] > 0
    runs = {run.config().optim.lr: run for run in RunStore(tmp_path).runs()}
    assert runs[1e-3].is_done() and found["run_id"] == runs[1e-3].id
    pruned = runs[2e-4].inspect()
    assert (pruned.state, pruned.step) == ("stopped", 2) and not runs[2e-4].evaluations()


def test_what_all_trials_share_is_trained_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"search.space": [{"key": "sampler.guidance", "low": 1.0, "high": 9.0}], "search.trials": 2}
    made = load_config("maskmamba/demo", {**SMALL, **search, "runtime.root": str(tmp_path)})
    store = RunStore(tmp_path)
    search_and_execute([made], part="train")
    (run,) = store.runs()
    assert run.is_done() and not run.evaluations() and not store.search(search_id(made)).folder.exists()
    trained = run.result_path.stat().st_mtime_ns
    monkeypatch.setattr("experiments.search.run.evaluate", lambda config, run, wait: Evaluated())
    search_and_execute([made])
    assert store.search(search_id(made)).is_done()
    assert [run.result_path.stat().st_mtime_ns for run in store.runs()] == [trained], "nothing was trained again"


def test_of_several_processes_one_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("experiments.search.run.train", lambda config, wait: done.append("trained"))
    monkeypatch.setattr("experiments.search.run.take_part", lambda *_: pytest.fail("this rank searches"))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    def made(key: str) -> RunConfig:
        space = {"search.space": [{"key": key, "low": 0.1, "high": 2.0}]}
        return load_config("maskmamba/demo", {**SMALL, **space, "runtime.root": str(tmp_path)})

    search_and_execute([made("sampler.guidance")])
    search_and_execute([made("sampler.guidance")], part="train")
    assert done == ["trained"] * 2, "what the trials share, together with the other rank"
    with pytest.raises(UserError, match="2 processes were started together, but a search is for one"):
        search_and_execute([made("sampler.guidance")], part="evaluate")
    with pytest.raises(UserError, match="a search is for one"):
        search_and_execute([made("optim.lr")])


class Evaluated:
    """An evaluation that costs nothing."""

    def result(self) -> dict[str, dict[str, float]]:
        return {"metrics": {"fd_efflite0": 1.0}}
