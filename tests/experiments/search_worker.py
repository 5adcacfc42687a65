"""Stands in for `ablate execute` on a search: the trials of the real one, with a formula in place of trainings.

SEARCH_WORKER_SECONDS says how long a trial takes. Every trial that begins is noted in the file SEARCH_WORKER_LOG.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import optuna

from experiments.config import read_config
from experiments.run_config import RunConfig
from experiments.search.loop import chosen_config, take_part, trial_config
from experiments.store import RunStore


def measure(config: RunConfig, trial: optuna.Trial) -> dict[str, float]:
    """Best at guidance 2.5."""
    with open(os.environ["SEARCH_WORKER_LOG"], "a") as log:
        log.write(f"{trial.number} {os.getpid()}\n")
    time.sleep(float(os.environ.get("SEARCH_WORKER_SECONDS", "0.01")))
    return {"fd_efflite0": (config.sampler.guidance - 2.5) ** 2}


def main() -> None:
    paths = [word for word in sys.argv[1:] if word not in ("--part", "train", "evaluate")]
    for config in [read_config(Path(path)) for path in paths]:
        if "train" in sys.argv:  # what all trials share
            run = RunStore(config.root).prepare(trial_config(config, {}))
            with run.claim() as mine:
                time.sleep(2 * float(os.environ.get("SEARCH_WORKER_SECONDS", "0.01")))
                if mine:
                    run.write_result({"step": 1, "max_steps": 1, "metrics": {}})
            continue
        search = take_part(config, measure)
        chosen = chosen_config(config, (search.result() or {})["chosen"])
        run = RunStore(config.root).prepare(chosen)
        with run.claim(wait=True) as mine:
            if mine:
                run.write_result({"step": 1, "max_steps": 1, "metrics": {}})
        evaluation = run.prepare_evaluation(chosen)
        with evaluation.claim(wait=True) as mine:
            if mine:
                evaluation.write_result({"metrics": {"fd_efflite0": chosen.sampler.guidance}})


if __name__ == "__main__":
    main()
