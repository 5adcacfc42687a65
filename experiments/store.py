"""The run store: where runs live, what is in their folders, and whether a stored run is the one that is asked for.

outputs/runs/<run_id>/ holds config.yaml, overrides.txt, claims/, attempts/, status.json, metrics.jsonl, checkpoints/,
tb/, samples/, result.json and evaluations/<eval_id>/, which in turn holds config.yaml, claims/, status.json,
samples.npz, grid.png and result.json. outputs/benchmarks/<bench_id>/ holds config.yaml, claims/, status.json and
result.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.config import read_config, save_config, to_dict
from experiments.errors import UserError
from experiments.files import atomic_write_text
from experiments.identity import (
    EVALUATION,
    TRAINING,
    benchmark_id,
    evaluation_id,
    run_id,
    search_id,
    stored_semantic,
)
from experiments.run_config import RunConfig
from experiments.search.work import Search
from experiments.strict_yaml import load_stored
from experiments.work import Work
from lightning_modules.names import did_you_mean, some


class Evaluation(Work):
    """The folder of one evaluation of a run, called by eight digits of its hash."""

    @property
    def samples_path(self) -> Path:
        """arr_0 uint8 (N, H, W, 3), labels (N,)."""
        return self.folder / "samples.npz"

    @property
    def grid_path(self) -> Path:
        """A grid of samples to look at."""
        return self.folder / "grid.png"

    def config(self) -> RunConfig:
        """The stored configuration."""
        return read_config(self.config_path)


class Benchmark(Work):
    """The folder of one benchmark, called by its kind and eight digits of its hash."""


class Run(Work):
    """The folder of one training, called by its generator and eight digits of its hash."""

    distributed = True

    @property
    def root(self) -> Path | None:
        """The folder of outputs that it lies in; None where somebody put it elsewhere."""
        return self.folder.parents[1] if self.folder.parent.name == "runs" else None

    @property
    def attempts_folder(self) -> Path:
        """What each attempt ran with, see `experiments.history`."""
        return self.folder / "attempts"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The Lightning checkpoint that the run resumes from."""
        return self.checkpoints / "last.ckpt"

    @property
    def final_weights(self) -> Path:
        """The weights that samples are drawn from (EMA if on)."""
        return self.checkpoints / "final.safetensors"

    def snapshot(self, step: int) -> Path:
        """Weights of a step on the way that samples can be drawn from."""
        return self.checkpoints / f"step-{step}.safetensors"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard event files."""
        return self.folder / "tb"

    @property
    def samples(self) -> Path:
        """Folder of sample grids drawn while training."""
        return self.folder / "samples"

    def config(self) -> RunConfig:
        """The stored configuration."""
        return read_config(self.config_path)

    def evaluation(self, eval_id: str) -> Evaluation:
        """The evaluation of that id, whether or not it exists yet."""
        return Evaluation(self.folder / "evaluations" / eval_id)

    def evaluations(self) -> list[Evaluation]:
        """All evaluations that were begun."""
        return [Evaluation(path.parent) for path in sorted(self.folder.glob("evaluations/*/config.yaml"))]

    def newest_evaluation(self) -> Evaluation | None:
        """The one that was measured last, None if none is finished. Raises UserError where a result is damaged."""
        return newest(self.finished_evaluations())

    def finished_evaluations(self) -> dict[Evaluation, dict[str, Any]]:
        """Those with a result, and their results. Raises UserError where one is damaged."""
        found = ((evaluation, evaluation.result()) for evaluation in self.evaluations())
        return {evaluation: result for evaluation, result in found if result is not None}

    def prepare_evaluation(self, config: RunConfig) -> Evaluation:
        """The evaluation that `config` asks for, with its configuration written. Raises UserError as `prepare` does."""
        evaluation = self.evaluation(evaluation_id(config))
        _write_or_compare(evaluation.config_path, config, EVALUATION)
        return evaluation

    def _complete(self, result: dict[str, Any]) -> bool:
        if result.get("step") is None:
            return False
        return result["step"] == result.get("max_steps") or "stopped_early" in result

    # --- metrics ------------------------------------------------------------------------------------------------------

    def append_metrics(self, step: int, time: float, metrics: Mapping[str, float]) -> None:
        """Add one line; values that are not finite become null, because JSON has no word for them."""
        values = {key: float(value) if math.isfinite(value) else None for key, value in metrics.items()}
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": time, **values}) + "\n")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a kill tore off is left out."""
        if not self.metrics_path.exists():
            return
        with open(self.metrics_path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    yield record

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`: call on resuming from the checkpoint of that step."""
        if self.metrics_path.exists():
            kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
            atomic_write_text(self.metrics_path, "".join(kept))


def newest(evaluations: Iterable[Evaluation]) -> Evaluation | None:
    """Of finished evaluations the one that was measured last; None of none."""
    return max(evaluations, key=lambda evaluation: evaluation.result_path.stat().st_mtime, default=None)


class RunStore:
    """All runs under one root."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    @property
    def folder(self) -> Path:
        """Where the runs lie."""
        return self.root / "runs"

    def run(self, identity: str) -> Run:
        """The run of that id, whether or not it exists yet."""
        return Run(self.folder / identity)

    def runs(self) -> list[Run]:
        """All runs that were begun, by id."""
        return [Run(path.parent) for path in sorted(self.folder.glob("*/config.yaml"))]

    def benchmark(self, identity: str) -> Benchmark:
        """The benchmark of that id, whether or not it exists yet."""
        return Benchmark(self.root / "benchmarks" / identity)

    def prepare_benchmark(self, config: RunConfig) -> Benchmark:
        """The benchmark that `config` asks for, with its configuration written. Raises UserError as `prepare` does."""
        benchmark = self.benchmark(benchmark_id(config))
        sections = [key for key in config.benchmark.measures if "." not in key]
        _write_or_compare(benchmark.config_path, config, ("seed", "benchmark", *sections))
        return benchmark

    def search(self, identity: str) -> Search:
        """The search of that id, whether or not it exists yet."""
        return Search(self.root / "searches" / identity)

    def prepare_search(self, config: RunConfig) -> Search:
        """The search that `config` asks for, with its configuration written. Raises UserError as `prepare` does."""
        search = self.search(search_id(config))
        _write_or_compare(search.config_path, config, ("search",))
        return search

    def find(self, word: str) -> Run:
        """The run that a person means: an id, a unique part of one (beginnings and ends before others), or a path.

        Raises:
            UserError: no such run, or several.
        """
        if ((folder := Path(word).resolve()) / "config.yaml").exists():
            if folder.parent.name == "evaluations":
                raise UserError(f"{word} is an evaluation; name its run, {folder.parents[1]}.")
            return Run(folder)
        names = [run.id for run in self.runs()]
        matches = [word] if word in names else [n for n in names if n.startswith(word) or n.endswith(f"-{word}")]
        matches = matches or [n for n in names if word and word in n]
        if len(matches) == 1:
            return self.run(matches[0])
        if matches:
            raise UserError(f"'{word}' fits {len(matches)} runs: {some(matches)}.")
        valid = f" There are: {some(names)}." if names else " It is empty."
        raise UserError(f"No run '{word}' in {self.folder}.{did_you_mean(word, names)}{valid}")

    def prepare(self, config: RunConfig, overrides: Iterable[str] = ()) -> Run:
        """The run that `config` asks for, with its configuration written if it is new.

        Args:
            overrides: the "key=value" words it was made with, kept for the reader in overrides.txt.

        Raises:
            UserError: the folder holds a run whose configuration differs although its hash is the same, which happens
                when a default changed since; or it cannot be written.
        """
        run = self.run(run_id(config))
        if _write_or_compare(run.config_path, config, TRAINING):
            atomic_write_text(run.folder / "overrides.txt", "".join(f"{word}\n" for word in overrides))
        return run


def _write_or_compare(path: Path, config: RunConfig, sections: Collection[str]) -> bool:
    """Write the configuration and return True; if there is one, return False or raise UserError where they differ."""
    try:
        stored = load_stored(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        save_config(config, path)
        return True
    except (yaml.YAMLError, UnicodeDecodeError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{path} is damaged; remove it and run the same command again.")
    if "trainer" in sections and config.trainer.selects:
        _check_validations(path.parent, stored, config)
    # Compared as plain values, not rebuilt: a file that has moved since must not make its run unusable.
    old, new = stored_semantic(stored, sections), stored_semantic(to_dict(config), sections)
    if gone := sorted(old.keys() - new.keys()):
        raise UserError(
            f"{path.parent} was made by other code, which has keys that this one does not know: {', '.join(gone)}. Use "
            "that code to go on with it, name another folder of outputs with --root, or move this one away."
        )
    if changed := sorted(key for key in old.keys() & new.keys() if old[key] != new[key]):
        listed = ", ".join(f"{key} ({old[key]!r} then, {new[key]!r} now)" for key in changed)
        raise UserError(
            f"{path.parent} was made with other values under the same hash: {listed}. A default has changed since: set "
            "the old values explicitly to go on with that run, or move the folder away to train it anew."
        )
    return False


def _check_validations(folder: Path, stored: dict[str, Any], config: RunConfig) -> None:
    """Raise UserError where a run that chooses weights by its validations was validated at other steps."""
    now = config.runtime.val_every
    then = stored_semantic(stored, ("runtime",)).get("runtime.val_every", now)
    if then != now:
        raise UserError(
            f"{folder} is validated every {then} steps, not every {now}, and its validations choose the weights: set "
            f"runtime.val_every={then} to go on with that run, or move the folder away to train it anew."
        )
