"""Carries a search out: any number of processes take trials until all are done; the last one names the best.

A process that dies leaves a trial that the next one takes over, values and all: exactly as many trials are done as were
asked for, whatever is killed and when. What a trial's values can cause (too little memory, no finite number) is the
outcome of that trial; any other error ends the process that met it, and leaves the trial to the others.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import optuna

from experiments.claims import Busy, ClaimLost
from experiments.config import build_config, to_dict
from experiments.errors import CellError, UserError
from experiments.failures import classify
from experiments.identity import evaluation_id, run_id
from experiments.run_config import RunConfig
from experiments.search.study import close_orphans, create_study, live_trial, open_study, propose, tell
from experiments.search.work import Search, Trial
from experiments.store import RunStore

log = logging.getLogger("ablate")
Measure = Callable[[RunConfig, optuna.Trial], dict[str, float]]
"""Trains and evaluates a trial's configuration as far as it is not done; returns its metrics."""
CAUSED_BY_VALUES = frozenset({"oom", "nan"})
"""Causes of failures that the same trial would meet anywhere."""


class Pruned(SystemExit):
    """A training that does badly was ended, in good order and for good."""


def take_part(config: RunConfig, measure: Measure) -> Search:
    """Do trials, unless others do them, until the search is done; or find it done.

    Raises:
        CellError: no trial succeeded.
        Exception: an error that no trial's values cause, such as a broken device's or a full disk's.
    """
    search = RunStore(config.root).prepare_search(config)
    if search.is_done():
        return search
    beginning = search.beginning()
    with beginning.claim(wait=True) as mine:
        if mine:
            create_study(search.journal_path, config.search)
            search.create_trials(config.search.trials)
            beginning.write_result({"metrics": {}})
    study = open_study(search.journal_path, config.search)
    while left := [trial for trial in search.trials() if not trial.is_done()]:
        taken = 0
        for trial in left:
            taken += _take(trial, study, config, measure)
        if not taken:
            time.sleep(1.0)  # others are at all that is left
    with search.claim(wait=True) as mine:
        if mine:
            _close(search, study, config)
    return search


def chosen_config(config: RunConfig, params: dict[str, Any]) -> RunConfig:
    """The configuration with these values, and nothing to search any more."""
    return build_config(to_dict(config), {**params, "search.space": []})


def trial_config(config: RunConfig, params: dict[str, Any]) -> RunConfig:
    """What one trial trains and evaluates."""
    more = {"evaluation.seed": config.search.selection_seed, **config.search.overrides}
    return chosen_config(config, {**more, **params})


def _take(trial: Trial, study: optuna.Study, config: RunConfig, measure: Measure) -> bool:
    """Do a trial, unless another live process is at it."""
    try:
        with trial.claim() as mine:
            if mine:
                _do(trial, study, config, measure)
    except Busy as busy:
        if busy.folder != trial.folder:
            raise
        return False
    return True


def _do(trial: Trial, study: optuna.Study, config: RunConfig, measure: Measure) -> None:
    proposal = trial.proposal()
    if proposal is None:
        proposal = propose(study, config.search, trial.folder.name, trial.attempts)
        trial.write_proposal(*proposal)
    number, params = proposal
    metric, value, outcome, reason = config.search.metric, None, "complete", ""
    try:
        value = measure(trial_config(config, params), live_trial(study, number)).get(metric)
        if value is None or not math.isfinite(value):
            value, outcome, reason = None, "failed", f"{metric} was not measured, or is not a number"
    except Pruned:
        outcome = "pruned"
    except Exception as error:
        cause, reason = classify(error)
        if cause not in CAUSED_BY_VALUES or isinstance(error, UserError | ClaimLost):
            raise
        log.exception("trial %d failed", number)
        outcome = "failed"
    log.info("trial %d: %s %s %s", number, params, outcome, reason or value)
    tell(study, number, outcome, value)
    found = {} if value is None else {metric: value}
    trial.write_result({"metrics": found, "number": number, "params": params, "outcome": outcome, "reason": reason})


def _close(search: Search, study: optuna.Study, config: RunConfig) -> None:
    """Name the best trial; the earlier one of two that are equal."""
    results = [result for trial in search.trials() if (result := trial.result())]
    complete = [result for result in results if result["outcome"] == "complete"]
    if not complete:
        reasons = [result["reason"] for result in results if result["reason"]]
        raise CellError(f"None of {len(results)} trials succeeded; the last one: {(reasons or ['pruned'])[-1]}")
    close_orphans(study, [result["number"] for result in results])
    metric, sign = config.search.metric, 1 if config.search.direction == "minimize" else -1
    best = min(complete, key=lambda result: (sign * result["metrics"][metric], result["number"]))
    chosen = chosen_config(config, best["params"])
    search.write_result(
        {
            "schema": 1,
            "search_id": search.id,
            "metrics": best["metrics"],
            "chosen": best["params"],
            "run_id": run_id(chosen),
            "eval_id": evaluation_id(chosen),
            "trained_by_trial": config.search.trains and run_id(trial_config(config, best["params"])) == run_id(chosen),
            "trials": results,
        }
    )
