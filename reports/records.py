"""One record for each cell of a sweep: what was measured, or why nothing was. Nothing is averaged here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from experiments.benchmarks.config import BENCHMARK_CELLS
from experiments.errors import UserError
from experiments.flat import flatten
from experiments.provenance import makers
from experiments.store import Benchmark, Evaluation, Run, RunStore
from experiments.strict_yaml import load_stored
from experiments.work import Status, Work
from reports.quantities import CHOSEN
from sweeps.planner import Cell
from sweeps.state import CellState, cell_states

BOOKKEEPING = ("schema", "step", "max_steps")
"""Numbers of a result.json that are no measurement."""
MUTE = frozenset({"none", "on", "off", "yes", "no", "true", "false"})
"""Labels that, like numbers, say nothing without their axis."""


@dataclass(frozen=True)
class Record:
    """One cell: one training and one evaluation of it, or one benchmark."""

    cell: str
    """The cell's name in its sweep, e.g. "hybrid_scheme=serial_v2,seed=0"."""
    labels: Mapping[str, str]
    overrides: Mapping[str, Any]
    seed: int
    run_id: str
    eval_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Everything measured, of training and evaluation together; empty while `reason` is not."""
    reason: str = ""
    """Why there is no measurement, e.g. "running 43 %"; "" = there is one."""
    state: CellState = CellState(Status(), "training")
    run_result: Mapping[str, Any] = field(default_factory=dict)
    """Of the training, or of the benchmark."""
    evaluation_result: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    """Result of the search that chose some of its values; {} if nothing was searched."""
    amended: Mapping[str, Any] = field(default_factory=dict)
    """What it has of its own, from `ablate retry SWEEP KEY=VALUE`."""

    @property
    def works(self) -> tuple[Work, ...]:
        """The folders behind the cell, in the order in which they get done."""
        return tuple(work for work in (self.run, self.evaluation, self.benchmark) if work is not None)

    @property
    def name(self) -> str:
        """Readable name: the labels and the seed."""
        return " ".join((*(named(axis, label) for axis, label in self.labels.items()), f"seed{self.seed}"))

    @property
    def origins(self) -> tuple[Mapping[str, Any], ...]:
        """The provenance of all that made these numbers: of the training and the evaluation, with the attempts and the
        processes that they are of, and of the measurement, where that was repeated (`ablate evaluate --again`)."""
        again = self.evaluation_result.get("measured_again")
        found = [result.get("provenance", {}) for result in (self.run_result, self.evaluation_result)]
        others = [maker for origin in found for maker in makers(origin) if maker is not origin]
        return (*found, *others, *([again] if again else []))

    @property
    def not_finite(self) -> Sequence[str]:
        """Metrics that the evaluation found to be NaN or infinite."""
        return self.evaluation_result.get("not_finite", ())

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How the evaluation measured."""
        return self.evaluation_result.get("protocol") or self.run_result.get("protocol", {})

    @cached_property
    def config(self) -> dict[str, Any]:
        """The stored configuration (of the last work that has one), flat, by dotted key; {} if there is none."""
        for work in reversed(self.works):
            if raw := _read_yaml(work.config_path):
                flat = flatten(raw)
                return _timed(flat) if work is self.benchmark else flat
        return {}

    def replicates(self, metric: str) -> Sequence[float]:
        """The deviations of a metric's bootstrap replicates; () where the evaluation has none."""
        return self.evaluation_result.get("replicates", {}).get(metric, ())

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one key of metrics.jsonl, in order."""
        lines = self.run.metrics() if self.run else ()
        return [(line["step"], float(line[key])) for line in lines if isinstance(line.get(key), int | float)]


def named(axis: str, label: str) -> str:
    """A label in running text: with its axis where it says nothing by itself ("guidance 3", "conv none")."""
    mute = label.lower() in MUTE or label.replace(".", "", 1).isdecimal()
    return f"{axis.replace('_', ' ')} {label}" if mute else label


def is_number(label: str) -> bool:
    """Whether an axis label is a number, such as a resolution."""
    try:
        float(label)
    except ValueError:
        return False
    return True


def collect(cells: Iterable[Cell], root: Path) -> list[Record]:
    """Look at the folders of all cells under the root of all outputs."""
    store, cells = RunStore(root), list(cells)
    states = cell_states(cells, store)
    return [_look(cell, store, states[cell.name]) for cell in cells]


def _look(cell: Cell, store: RunStore, state: CellState) -> Record:
    cell = cell.settled(store)
    timed = cell.measure == "benchmark"
    run = store.run(cell.run_id) if cell.run_id else None
    benchmark = store.benchmark(cell.eval_id) if timed else None
    evaluation = run.evaluation(cell.eval_id) if run else None
    search = _result(store.search(cell.search_id)) if cell.search_id else {}
    reason, run_result, measured = "", _result(run or benchmark), {}
    if state.state == "done":
        measured = _result(evaluation)
    # Trials that are trainings have trained the chosen run, too.
    trained = () if search.get("trained_by_trial") else (run_result,)
    results = (*trained, measured, *search.get("trials", ()))
    if state.state != "done":
        reason = "not run" if state.describe() == "missing" else state.describe()
    return Record(
        cell=cell.name,
        labels={str(axis): str(label) for axis, label in cell.labels.items()},
        overrides=dict(cell.overrides),
        seed=cell.seed,
        run_id=cell.run_id,
        eval_id=cell.eval_id,
        metrics={} if reason else {**_together(run_result, measured), **_chosen(search), **spent(results)},
        reason=reason,
        state=state,
        run_result=run_result,
        evaluation_result=measured,
        run=run,
        evaluation=evaluation,
        benchmark=benchmark,
        search=search,
        amended=dict(cell.amended),
    )


def _result(work: Work | None) -> dict[str, Any]:
    """The result of finished work, {} where there is none or it is damaged (the state says so)."""
    try:
        found = (work.result() if work else None) or {}
        return {key: value for key, value in found.items() if value is not None}
    except UserError:
        return {}


def spent(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Device time of all attempts at all that the cell took, the trials of its search among it."""
    seconds = [result["device_seconds"] for result in results if "device_seconds" in result]
    return {"device_seconds": sum(seconds)} if seconds else {}


def _chosen(search: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the values that a search chose, as quantities "chosen/KEY"."""
    found = search.get("chosen", {}).items()
    return {f"{CHOSEN}{key}": v for key, v in found if isinstance(v, int | float) and not isinstance(v, bool)}


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers that a result.json holds, from its metrics and beside them; integers stay exact."""
    values = {**{key: value for key, value in result.items() if key not in BOOKKEEPING}, **result.get("metrics", {})}
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _together(trained: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a training and of an evaluation; of one of weights from the way (`evaluation.snapshot`), without
    the losses of the end."""
    of_training = numbers(trained)
    if "kept_step" in measured:
        of_training = {key: v for key, v in of_training.items() if not key.startswith(("val/", "train/"))}
    return {**of_training, **numbers(measured)}


def _timed(config: dict[str, Any]) -> dict[str, Any]:
    """Of a benchmark's configuration, what it times."""
    kept = ("seed", "benchmark", *getattr(BENCHMARK_CELLS[config["benchmark.name"]].config, "measures", ()))
    return {key: value for key, value in config.items() if key in kept or key.startswith(tuple(f"{k}." for k in kept))}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = load_stored(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return raw if isinstance(raw, dict) else {}


def record_of(run: Run, evaluation: Evaluation | None = None) -> Record:
    """A run with an evaluation, by default the newest of those that are finished."""
    newest = evaluation or run.newest_evaluation()
    result, measured = run.result() or {}, (newest.result() or {}) if newest else {}
    record = Record(
        cell=run.id,
        labels={"run": run.id},
        overrides={},
        seed=0,
        run_id=run.id,
        eval_id=newest.id if newest else "",
        metrics={**_together(result, measured), **spent((result, measured))},
        state=CellState(run.inspect(), "training"),
        run_result=result,
        evaluation_result=measured,
        run=run,
        evaluation=newest,
    )
    return replace(record, seed=int(record.config.get("seed", 0)))
