"""Real trials: trainings and evaluations; then the chosen values are trained and evaluated like any other run."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import optuna

from experiments.errors import UserError
from experiments.evaluation import evaluate
from experiments.ranks import is_leader, world_size
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.search.loop import Pruned, chosen_config, take_part, trial_config
from experiments.status import Part


class Pruning(L.Callback):
    """Reports the validation loss of a trial's training, and ends it where Optuna finds it hopeless."""

    def __init__(self, trial: optuna.Trial):
        self._trial = trial

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Report, and ask."""
        if trainer.state.fn == "fit" and "val/loss" in trainer.callback_metrics:
            self._trial.report(float(trainer.callback_metrics["val/loss"]), trainer.global_step)
            if trainer.global_step < trainer.max_steps and self._trial.should_prune():
                raise Pruned(1)


def search_and_execute(configs: Sequence[RunConfig], part: Part = "all") -> None:
    """Search for the values of each configuration, then train and evaluate what was found.

    Args:
        part: "train" only trains what all trials share, which several processes may do together; "evaluate" only
            searches, which is for one.

    Raises:
        CellError: no trial succeeded.
        UserError: several processes were started together for what is no shared training.
    """
    shared = part != "evaluate" and not any(config.search.trains for config in configs)
    if world_size() > 1 and not shared:
        raise UserError(
            f"{world_size()} processes were started together, but a search is for one (runtime.devices=1, "
            "runtime.num_nodes=1): several searchers share the trials when they are started on their own."
        )
    for config in configs:
        if not config.search.trains:
            train(trial_config(config, {}), wait=True)
        if part == "train" or not is_leader():  # the other ranks of that training have done their part
            continue
        search = take_part(config, measure)
        chosen = chosen_config(config, (search.result() or {})["chosen"])
        evaluate(chosen, train(chosen, wait=True), wait=True)


def measure(config: RunConfig, trial: optuna.Trial) -> dict[str, float]:
    """The metrics of one trial. Raises Pruned."""
    watch = [Pruning(trial)] if config.search.pruner != "none" else []
    run = train(config, wait=True, callbacks=watch)
    metrics = dict((run.result() or {})["metrics"])
    if config.search.evaluates:
        metrics |= (evaluate(config, run, wait=True).result() or {})["metrics"]
    return metrics
