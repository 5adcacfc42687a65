"""`ablate list --runs`: every run under a root, however it was begun, and what it was made with. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from experiments.config import load_config, to_dict
from experiments.errors import UserError
from experiments.flat import flatten
from experiments.identity import EVALUATION, TRAINING, stored_semantic
from experiments.overrides import is_filled_in
from experiments.store import Evaluation, Run, RunStore, newest
from experiments.strict_yaml import load_stored
from experiments.work import Work

SHOWN = ("val/loss", "fid", "fd_efflite0")
"""Metrics in the table, if any run has them: of the training, and of the evaluation that was measured last, which
`evaluated_with` names."""


def run_records(root: Path | str) -> list[dict[str, Any]]:
    """One record a run, the latest last: id, state, step, max_steps, preset, overrides, evaluations (how many), the
    words of the newest, metrics."""
    runs = sorted(RunStore(root).runs(), key=lambda run: run.config_path.stat().st_mtime)
    return [_record(run) for run in runs]


def _record(run: Run) -> dict[str, Any]:
    status, stored = run.inspect(), _stored(run)
    preset, overrides = _origin(run, stored)
    trained: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    words: list[str] = []
    done: dict[Evaluation, dict[str, Any]] = {}
    with suppress(UserError):
        trained, done = run.result() or {}, run.finished_evaluations()
        if stored and (last := newest(done)):
            words, measured = evaluation_words(last, stored), done[last]
    return {
        "run": run.id,
        "state": status.state,
        "step": status.step,
        "max_steps": status.max_steps,
        "preset": preset,
        "overrides": overrides,
        "evaluations": len(done),
        "evaluated_with": words,
        "metrics": {**trained.get("metrics", {}), **measured.get("metrics", {})},
    }


def evaluation_words(evaluation: Evaluation, usual: Mapping[str, Any]) -> list[str]:
    """The words that ask for an evaluation.

    Args:
        usual: flat values by dotted key that need no word, as of `ablate evaluate RUN` alone.

    Raises:
        UserError: its configuration cannot be read.
    """
    return [
        f"{key}={value}"
        for key, value in read_flat(evaluation).items()
        if key.partition(".")[0] in EVALUATION
        and key != "evaluation.batch_size"
        and not is_filled_in(key)
        and usual.get(key) != value
    ]


def read_flat(work: Work) -> dict[str, Any]:
    """A stored configuration as it was written, by dotted key: its files may be gone. Raises UserError if damaged."""
    try:
        return flatten(load_stored(work.config_path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{work.config_path} is damaged; remove it and run the same command again.") from error


def origin_of(run: Run) -> tuple[str, list[str]]:
    """The preset and what differs from it: the words as typed, or where a sweep made the run the values themselves."""
    return _origin(run, _stored(run))


def _stored(run: Run) -> dict[str, Any]:
    """As `read_flat`; {} where that is damaged."""
    with suppress(UserError):
        return read_flat(run)
    return {}


def _origin(run: Run, stored: Mapping[str, Any]) -> tuple[str, list[str]]:
    words: list[str] = []
    with suppress(OSError):  # none, or one that cannot be read
        words = (run.folder / "overrides.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    preset, usual = stored.get("preset", ""), {}
    with suppress(UserError):  # of a preset that is gone
        usual = _usual(preset) if preset and not words else {}
    if usual:
        words = [f"{key}={value}" for key, value in stored.items() if usual.get(key, value) != value]
    return preset, words


@lru_cache
def _usual(preset: str) -> dict[str, Any]:
    """The values of a preset that identify a training, but for what follows from files."""
    usual = stored_semantic(to_dict(load_config(preset)), TRAINING)
    return {key: value for key, value in usual.items() if not key.endswith("fingerprint")}


def run_table(records: list[dict[str, Any]]) -> Any:
    """The records as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    shown = [name for name in SHOWN if any(name in record["metrics"] for record in records)]
    for column in ("run", "state", "steps", *shown, "evals"):
        table.add_column(column, no_wrap=True)
    table.add_column("made with", overflow="fold", min_width=20)
    for record in records:
        steps = f"{record['step']}/{record['max_steps']}" if record["max_steps"] else ""
        values = [format(record["metrics"][name], ".4g") if name in record["metrics"] else "" for name in shown]
        table.add_row(
            record["run"],
            record["state"],
            steps,
            *values,
            str(record["evaluations"]),
            Text(made_with(record) + _evaluated_with(record)),
        )
    return table


def made_with(record: dict[str, Any]) -> str:
    """What a run of `run_records` was made with, in one line."""
    words = [word for word in record["overrides"] if not word.startswith("runtime.")]
    if any(word.startswith("imported=") for word in words):
        return "published weights"
    return " ".join(filter(None, (record["preset"], *words)))


def _evaluated_with(record: dict[str, Any]) -> str:
    """Whose numbers stand in the table, where it is not plain."""
    words = " ".join(record["evaluated_with"]) or "the run's own settings"
    return f" (newest evaluation: {words})" if record["evaluated_with"] or record["evaluations"] > 1 else ""
