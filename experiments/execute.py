"""What launchers start in a process of its own: one training, and every evaluation of it."""

from __future__ import annotations

import logging
from pathlib import Path

from experiments.errors import CellError, UserError
from experiments.evaluation import evaluate
from experiments.failures import classify
from experiments.identity import evaluation_id, run_id
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.status import Part
from experiments.store import Run, RunStore

log = logging.getLogger("ablate")


def execute(configs: list[RunConfig], wait: bool = True, part: Part = "all", folder: Path | None = None) -> None:
    """Train the run that the configurations share, unless it is done, then evaluate each of them; an evaluation that
    fails leaves the others alone.

    Args:
        part: only "train", or only "evaluate" a run that is trained already.
        folder: of "evaluate", the run's, where that is not in the root of the configurations.

    Raises:
        Exception: the training failed, or the first of the evaluations that failed.
    """
    if len({run_id(config) for config in configs}) != 1:
        raise UserError("The configurations of one worker must share their training.")
    if part == "evaluate":
        run = RunStore(configs[0].root).prepare(configs[0]) if folder is None else Run(folder)
    else:
        run = train(configs[0], wait=wait)
    failures: list[Exception] = []
    for config in configs if part != "train" and not configs[0].trains_tokenizer else ():
        try:
            evaluate(config, run, wait=wait)
        except Exception as error:
            unexpected = not isinstance(error, UserError | CellError)
            log.error("evaluation %s: %s", evaluation_id(config), classify(error)[1], exc_info=unexpected)
            failures.append(error.with_traceback(None))  # whose frames would hold what was loaded on the GPU
    if failures:
        raise failures[0]
