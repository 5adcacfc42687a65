"""Searches: many processes on one study, kills, proposals and choices."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from optuna.trial import TrialState

from experiments.attempts import GivenUp
from experiments.config import load_config, save_config
from experiments.errors import CellError
from experiments.identity import evaluation_id, run_id, search_id
from experiments.run_config import RunConfig
from experiments.search import study
from experiments.search.config import SearchAxisConfig, SearchConfig
from experiments.search.loop import Pruned, chosen_config, take_part, trial_config
from experiments.search.study import create_study, open_study, propose
from experiments.search.work import Search
from experiments.store import RunStore
from tests.sweeps.steps import SEARCHER

GUIDANCE = {"key": "sampler.guidance", "low": 1.0, "high": 9.0}
TRIALS = 12


def config(root: Path, **overrides: Any) -> RunConfig:
    search = {"search.space": [GUIDANCE], "search.trials": TRIALS, "runtime.root": str(root)}
    return load_config("maskmamba/demo", {**search, **overrides})


def start(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SEARCH_WORKER_LOG": str(path.with_name("log")), "SEARCH_WORKER_SECONDS": str(seconds)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen([*SEARCHER, str(path)], env=environment)


def check(search: Search, made: RunConfig, trials: int) -> None:
    """Every trial once, in the folders and in the journal."""
    results = [trial.result() for trial in search.trials()]
    assert len(results) == trials and all(result and result["outcome"] == "complete" for result in results)
    numbers = [result["number"] for result in results if result]
    assert len(set(numbers)) == trials
    journal = open_study(search.journal_path, made.search).get_trials()
    complete = {trial.number: trial.value for trial in journal if trial.state == TrialState.COMPLETE}
    assert complete == {r["number"]: r["metrics"]["fd_efflite0"] for r in results if r}
    assert {trial.state for trial in journal} <= {TrialState.COMPLETE, TrialState.FAIL}, "no trial is left running"


def test_four_processes_share_the_trials_and_a_killed_one_loses_none(tmp_path: Path) -> None:
    made = config(tmp_path)
    path, log = tmp_path / "config.yaml", tmp_path / "log"
    save_config(made, path)
    workers = [start(path, 0.3) for _ in range(4)]
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().split()) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim = int(log.read_text().split()[-1])
    os.kill(victim, signal.SIGKILL)
    assert sorted(worker.wait(120) for worker in workers) == [-9, 0, 0, 0]
    search = RunStore(tmp_path).search(search_id(made))
    check(search, made, TRIALS)
    begun = [line.split() for line in log.read_text().splitlines()]
    assert len(begun) == TRIALS + 1, "only the trial of the killed process was begun twice"
    assert len({pid for _, pid in begun}) > 1
    result = search.result()
    assert result and abs(result["chosen"]["sampler.guidance"] - 2.5) == min(
        abs(trial["params"]["sampler.guidance"] - 2.5) for trial in result["trials"]
    )
    assert RunStore(tmp_path).run(result["run_id"]).evaluation(result["eval_id"]).is_done()


def test_a_torn_journal_is_mended_and_finished_trials_stay(tmp_path: Path) -> None:
    made, seen = config(tmp_path, **{"search.trials": 4}), []

    def measure(trial_config: RunConfig, trial: Any) -> dict[str, float]:
        seen.append(trial.number)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return {"fd_efflite0": trial_config.sampler.guidance}

    with pytest.raises(KeyboardInterrupt):
        take_part(made, measure)
    search = RunStore(tmp_path).search(search_id(made))
    assert search.inspect().state == "stopped" and search.inspect().step == 2
    with open(search.journal_path, "a") as file:
        file.write('{"op_code": 4, "worker_')
    assert take_part(made, measure).is_done()
    assert sorted(seen) == [0, 1, 2, 2, 3], "the interrupted trial goes on with its values"
    check(search, made, 4)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_follow_from_the_seed_and_the_place(tmp_path: Path, sampler: Literal["random", "tpe"]) -> None:
    """Whichever process asks; what failed is not proposed again."""

    def proposals(name: str, seed: int, attempt: int = 1) -> list[Any]:
        search = SearchConfig([SearchAxisConfig("sampler.guidance", low=1.0, high=9.0)], sampler=sampler, seed=seed)
        create_study(tmp_path / name, search)
        opened = open_study(tmp_path / name, search)
        return [propose(opened, search, f"{place:03d}", attempt)[1]["sampler.guidance"] for place in range(3)]

    once = proposals("once", seed=7)
    assert proposals("again", seed=7) == once and len(set(once)) == 3
    assert not set(once) & {*proposals("other", seed=8), *proposals("retried", seed=7, attempt=2)}


def test_the_lock_leads_to_the_journal_from_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the age of what it leads to, others find out that its owner was killed; else they wait for ever."""
    monkeypatch.chdir(tmp_path)
    path, seen = Path("outputs/journal.log"), []
    path.parent.mkdir()
    create_study(path, SearchConfig())
    monkeypatch.setattr(study, "_mend", lambda _: seen.append(path.with_name("journal.log.lock").exists()))
    open_study(path, SearchConfig())
    assert seen == [True]


def test_failed_and_pruned_trials_do_not_end_a_search_unless_all_do(tmp_path: Path) -> None:
    first = [{"sampler.guidance": value} for value in (1.0, 2.0, 3.0)]

    def measure(made: RunConfig, trial: Any) -> dict[str, float]:
        if made.sampler.guidance == 1.0:
            raise MemoryError("out of memory")
        if made.sampler.guidance == 2.0:
            raise Pruned(1)
        return {"fd_efflite0": 7.0}

    found = take_part(config(tmp_path, **{"search.trials": 3, "search.first": first}), measure).result()
    assert found and [t["outcome"] for t in found["trials"]] == ["failed", "pruned", "complete"]
    assert found["chosen"] == {"sampler.guidance": 3.0}
    hopeless = config(tmp_path, **{"search.trials": 1, "search.first": first[:1]})
    with pytest.raises(CellError, match="None of 1 trials succeeded.*out of memory"):
        take_part(hopeless, measure)
    search = RunStore(tmp_path).search(search_id(hopeless))
    assert search.inspect().cause == "oom"
    search.clear_failure()
    assert search.inspect().state == "stopped" and search.trials()[0].proposal() is None


def test_an_error_that_no_values_cause_ends_the_process_and_leaves_the_trial(tmp_path: Path) -> None:
    """A device that breaks fails every trial at once: others must find these free."""
    made, seen = config(tmp_path, **{"search.trials": 4}), []

    def measure(made: RunConfig, trial: Any) -> dict[str, float]:
        seen.append(trial.number)
        if len(seen) == 2:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        return {"fd_efflite0": made.sampler.guidance}

    with pytest.raises(RuntimeError, match="uncorrectable ECC"):
        take_part(made, measure)
    search = RunStore(tmp_path).search(search_id(made))
    status = search.inspect()
    assert (status.state, status.step, seen) == ("failed", 1, [0, 1])
    assert status.reason == "RuntimeError: CUDA error: uncorrectable ECC error encountered"
    proposal = search.trials()[1].proposal()
    search.clear_failure()
    assert search.inspect().state == "stopped" and search.trials()[1].proposal() == proposal
    assert take_part(made, measure).is_done()
    check(search, made, 4)


def test_a_trial_that_was_given_up_is_proposed_anew_by_a_retry(tmp_path: Path) -> None:
    made = config(tmp_path, **{"search.trials": 1})

    def measure(made: RunConfig, trial: Any) -> dict[str, float]:
        raise GivenUp("given up: failed 5 times in the same way")

    with pytest.raises(GivenUp):
        take_part(made, measure)
    search = RunStore(tmp_path).search(search_id(made))
    assert search.inspect().cause == "repeated"
    search.clear_failure()
    assert search.inspect().state == "stopped" and search.trials()[0].proposal() is None


def test_kinds_of_values(tmp_path: Path) -> None:
    space = [
        {"key": "sampler.steps", "low": 2, "high": 8, "step": 2},
        {"key": "sampler.temperature", "values": [0.5, 1.0]},
        {"key": "optim.lr", "low": 1e-4, "high": 1e-2, "log": True},
    ]
    made = config(tmp_path, **{"search.space": space, "search.trials": 6, "search.sampler": "random"})
    found = take_part(made, lambda c, t: {"fd_efflite0": c.optim.lr}).result()
    assert found and made.search.trains
    for trial in found["trials"]:
        steps, temperature, lr = trial["params"].values()
        assert steps in (2, 4, 6, 8) and isinstance(steps, int) and temperature in (0.5, 1.0) and 1e-4 <= lr <= 1e-2
    assert found["chosen"]["optim.lr"] == min(t["params"]["optim.lr"] for t in found["trials"])


def test_trials_are_judged_on_other_samples_than_the_table(tmp_path: Path) -> None:
    made = config(tmp_path, **{"search.overrides": {"evaluation.num_samples": 36}})
    trial, chosen = trial_config(made, {"sampler.guidance": 4.0}), chosen_config(made, {"sampler.guidance": 4.0})
    assert (trial.evaluation.seed, trial.evaluation.num_samples) == (1000, 36)
    assert (chosen.evaluation.seed, chosen.evaluation.num_samples) == (0, 324)
    assert run_id(trial) == run_id(chosen) == run_id(made) and evaluation_id(trial) != evaluation_id(chosen)
    other = config(tmp_path, **{"sampler.guidance": 7.0, "search.jobs": 3})
    assert search_id(other) == search_id(config(tmp_path)), "neither the start nor the number of jobs matters"


def test_values_are_chosen_by_the_distance_that_tables_print(tmp_path: Path) -> None:
    """FID takes the stand-in's place as soon as Inception's weights are named."""
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"weights")
    named = config(tmp_path, **{"evaluation.inception_weights": str(weights)})
    assert (config(tmp_path).search.metric, named.search.metric) == ("fd_efflite0", "fid")
    assert chosen_config(named, {"sampler.guidance": 4.0}).search.metric == "fid"
    assert (
        config(tmp_path, **{"evaluation.inception_weights": str(weights), "search.metric": "val/loss"}).search.metric
        == "val/loss"
    )
