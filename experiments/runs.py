"""`ablate list --runs`: every run under a root, however it was begun; what is said of one that gives no samples.
Torch-free."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from experiments.config import load_config, to_dict
from experiments.errors import UserError
from experiments.files import default_root
from experiments.flat import flatten
from experiments.identity import EVALUATION, NOT_SEMANTIC, TRAINING, run_id
from experiments.overrides import is_filled_in
from experiments.provenance import other_code
from experiments.resolve import evaluation_data
from experiments.run_config import RunConfig
from experiments.store import Evaluation, Run, RunStore
from experiments.work import Work
from lightning_modules.hashing import file_crc32

SHOWN = ("val/loss", "fid", "fd_efflite0")
"""Metrics in the table, if any run has them: of the training, and of the evaluation that was measured last, which
`evaluated_with` names."""


def run_records(root: Path | str) -> list[dict[str, Any]]:
    """One record a run, the latest last: id, state, step, max_steps, preset, overrides, evaluations (how many), the
    words of the newest, metrics."""
    runs = sorted(RunStore(root).runs(), key=lambda run: run.config_path.stat().st_mtime)
    return [_record(run) for run in runs]


def not_trained(run: Run, named: str = "") -> UserError:
    """The error for a run that is to be sampled from, or started from, but is not done: how far it is, and what trains
    it to its end.

    Args:
        named: where it was named, such as "trainer.init_from=maskmamba-12345678"; else it is called by its id.
    """
    status = run.inspect()
    far = f"step {status.step} of {status.max_steps}, " if status.max_steps else ""
    return UserError(
        f"{named or f'Run {run.id}'} is not trained yet ({far}{status.state}); train it first: {_command(run)}"
    )


def check_weights(run: Run) -> None:
    """Raise UserError where a run's weights are not those that were written; those without a checksum pass."""
    expected = (run.result() or {}).get("weights_crc32")
    if not expected or not run.final_weights.is_file() or (found := file_crc32(run.final_weights)) == expected:
        return
    raise UserError(
        f"{run.final_weights} is damaged: its checksum is {found}, that of what was written {expected}. Put back a "
        f"copy of it, or move {run.folder} away and make the run again: {_command(run)}"
    )


def _command(run: Run) -> str:
    """What trains just this run: its preset with its own words, or its configuration where these mean another today."""
    preset, words = _origin(run)
    if any(word.startswith("imported=") for word in words):
        return "ablate import-checkpoint KIND FILE"
    words = [word for word in words if not word.startswith("runtime.root=")]
    where = ["--root", str(run.root or default_root())]
    config: RunConfig | None = None
    with suppress(UserError):
        config = load_config(preset, words)
    if config is None or run_id(config) != run.id:
        # Its configuration names the folder of outputs that it was begun in, which may have been moved since.
        return shlex.join(["ablate", "train", str(run.config_path), *where])
    elsewhere = config.root.resolve() != Path(where[1]).resolve()  # which the preset's file may say, too
    return shlex.join(["ablate", "train", preset, *words, *(where if elsewhere else [])])


def command_on(run: Run, name: str, *words: str) -> str:
    """`ablate NAME` with a run and further words, as it is typed to find just this run."""
    return shlex.join(["ablate", name, run.id if run.root else str(run.folder), *words, *_where(run)])


def _where(run: Run) -> list[str]:
    """What a command needs to find a run that is not where runs are by default."""
    root = run.root
    return ["--root", str(root)] if root and root.resolve() != Path(default_root()).resolve() else []


def done_before(done: str, folder: Path, result: Mapping[str, Any], way_out: str = "") -> str:
    """What is said of work that was done already: also that other code did it, which may give other numbers.

    Args:
        done: what was done, such as "trained".
        way_out: beside moving its `folder` away.
    """
    if not (other := other_code(result)):
        return f"Nothing to do, it is {done} already."
    ways = ", ".join(filter(None, (f"move {folder} away", way_out)))
    return (
        f"Nothing to do, it is {done} already, but by the code of {other}, which is not this one. To have it from this "
        f"code, {ways}."
    )


def how_to_use(config: RunConfig, run: Run) -> str:
    """What to do with a finished training: the command that measures it, and where its data bring no real images along,
    the one that makes statistics of some; of a tokenizer, the keys that take it."""
    if config.trains_tokenizer:
        return how_to_use_tokenizer(run, config.tokenizer.name)
    wanted = config.evaluation
    try:
        data = evaluation_data(config)
    except UserError:  # an evaluation that lacks a key, as the command will say
        data = None
    if data is None or wanted.reference_file or wanted.prompt_file or data.has_images:
        return f"Evaluate it with: {command_on(run, 'evaluate')}"
    kind, source = data.images()
    made = ["ablate", "reference", kind, "--source", source]
    made += ["--split", wanted.prompts if wanted.dataset else "train", "--size", str(config.tokenizer.image_size)]
    return (
        "Its data bring no real images to measure against. Make statistics of some, once, and evaluate it with:\n"
        f"  {shlex.join([*made, '--out', 'FILE'])}\n"
        f"  {command_on(run, 'evaluate', f'evaluation.{wanted.reference_key}=FILE')}"
    )


def how_to_use_tokenizer(run: Run, name: str) -> str:
    """The keys that take the tokenizer of a stage 1 run."""
    return f"Train on its tokens with: tokenizer.name={name} tokenizer.weights={run.final_weights}"


def _record(run: Run) -> dict[str, Any]:
    status = run.inspect()
    preset, overrides = _origin(run)
    try:
        trained, newest = run.result() or {}, run.newest_evaluation()
        measured = (newest.result() or {}) if newest else {}
        count = sum(evaluation.is_done() for evaluation in run.evaluations())
        words = evaluation_words(newest, read_flat(run)) if newest else []
    except UserError:
        trained, measured, count, words = {}, {}, 0, []
    return {
        "run": run.id,
        "state": status.state,
        "step": status.step,
        "max_steps": status.max_steps,
        "preset": preset,
        "overrides": overrides,
        "evaluations": count,
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
        stored = yaml.load(work.config_path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return flatten(stored)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{work.config_path} is damaged; remove it and run the same command again.") from error


def _origin(run: Run) -> tuple[str, list[str]]:
    """The preset and what differs from it: the words as typed, or where a sweep made the run the values themselves."""
    file = run.folder / "overrides.txt"
    words = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    preset, usual = "", {}
    with suppress(UserError):  # damaged, or of a preset that is gone
        stored = read_flat(run)
        preset = stored.get("preset", "")
        usual = _usual(preset) if preset and not words else {}
    if usual:
        words = [f"{key}={value}" for key, value in stored.items() if usual.get(key, value) != value]
    return preset, words


@lru_cache
def _usual(preset: str) -> dict[str, Any]:
    """The values of a preset that identify a training, but for what follows from files."""
    kept = {key: value for key, value in to_dict(load_config(preset)).items() if key in TRAINING}
    usual = flatten(kept).items()
    return {key: value for key, value in usual if key not in NOT_SEMANTIC and not key.endswith("fingerprint")}


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
