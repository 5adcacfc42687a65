"""Optuna as the proposer of values, over a journal on the shared folder that many processes append to."""

from __future__ import annotations

import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from experiments.search.config import SearchAxisConfig, SearchConfig

NAME = "search"
optuna.logging.set_verbosity(optuna.logging.ERROR)


def create_study(path: Path, config: SearchConfig) -> None:
    """Make the study and queue the points to try first. For one process, once."""
    storage = _storage(path)
    study = optuna.create_study(study_name=NAME, storage=storage, direction=config.direction, load_if_exists=True)
    for point in config.first:
        study.enqueue_trial(dict(point), skip_if_exists=True)


def open_study(path: Path, config: SearchConfig) -> optuna.Study:
    """The study, for one process."""
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=3),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(),
    }
    return optuna.load_study(study_name=NAME, storage=_storage(path), pruner=pruners[config.pruner]())


def propose(study: optuna.Study, config: SearchConfig, place: str, attempt: int) -> tuple[int, dict[str, Any]]:
    """A new trial: its number and a value for every searched key.

    Args:
        place, attempt: seed the proposal, with `config.seed`: whichever process asks, it gets the same, and what failed
            at the first attempt is not proposed again at the next.
    """
    study.sampler = _sampler(config, random.Random(f"{config.seed} {place} {attempt}").getrandbits(32))
    trial = study.ask()
    return trial.number, {axis.key: _suggest(trial, axis) for axis in config.space}


def _sampler(config: SearchConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    # Trials that others are at count as bad ones, so that workers do not propose the same.
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=5, multivariate=True)


def _suggest(trial: optuna.Trial, axis: SearchAxisConfig) -> Any:
    if axis.values:
        return trial.suggest_categorical(axis.key, axis.values)
    if axis.is_whole:
        return trial.suggest_int(axis.key, axis.low, axis.high, step=axis.step or 1, log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, step=axis.step, log=axis.log)


def tell(study: optuna.Study, number: int, outcome: str, value: float | None) -> None:
    """Report what came of a trial; told twice, it counts once."""
    state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[outcome]
    values = value if outcome == "complete" else None
    study.tell(number, values, state=state, skip_if_finished=True)


def close_orphans(study: optuna.Study, known: Collection[int]) -> None:
    """Give up trials that a killed process asked for and could not even note down."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.number not in known:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def live_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """The trial of that number, also one that another process asked for, to report intermediate values to."""
    frozen = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    return optuna.Trial(study, frozen._trial_id)  # Optuna has no public way to take over a trial


def _storage(path: Path) -> JournalStorage:
    path = path.resolve()  # the lock is a link to it, by whose age a killed owner is found out; it must lead there
    # A symbolic link is created atomically also over NFS, where locks of other kinds cannot be relied on.
    lock = JournalFileSymlinkLock(str(path))
    if path.exists():
        lock.acquire()
        try:
            _mend(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _mend(path: Path) -> None:
    """Cut off a line that a kill tore: the next writer would stumble over it. Call under the lock."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 65536))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
