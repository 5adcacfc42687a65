"""One record for each cell of a sweep: what was measured, or why nothing was. Nothing is averaged here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import yaml

from experiments.errors import UserError
from experiments.files import read_json
from experiments.store import Evaluation, Run, RunStore
from experiments.work import Status


class CellLike(Protocol):
    """What a report needs to know of a planned cell (`sweeps.planner.Cell`)."""

    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def overrides(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def run_id(self) -> str: ...
    @property
    def eval_id(self) -> str: ...


@dataclass(frozen=True)
class Record:
    """One cell: one training and one evaluation of it, or one benchmark."""

    labels: Mapping[str, str]
    overrides: Mapping[str, Any]
    seed: int
    run_id: str
    eval_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Everything measured, of training and evaluation together; empty while `reason` is not."""
    reason: str = ""
    """Why there is no measurement, e.g. "running 43%"; "" = there is one."""
    status: Status = field(default_factory=Status)
    run_result: Mapping[str, Any] = field(default_factory=dict)
    evaluation_result: Mapping[str, Any] = field(default_factory=dict)
    run: Run | None = None
    evaluation: Evaluation | None = None

    @property
    def name(self) -> str:
        """Readable name: the labels and the seed."""
        return " ".join((*self.labels.values(), f"seed{self.seed}"))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """How the evaluation measured."""
        return self.evaluation_result.get("protocol", {})

    @cached_property
    def config(self) -> dict[str, Any]:
        """The stored configuration (of the evaluation, else of the run), flat, by dotted key; {} if there is none."""
        for work in (self.evaluation, self.run):
            if work is not None and (raw := _read_yaml(work.config_path)):
                return dict(flatten(raw))
        return {}

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one key of metrics.jsonl, in order."""
        lines = self.run.metrics() if self.run else ()
        return [(line["step"], float(line[key])) for line in lines if isinstance(line.get(key), int | float)]


def collect(cells: Iterable[CellLike], root: Path, measure: str = "evaluation") -> list[Record]:
    """Look at the folders of all cells.

    Args:
        root: the folder of all outputs.
        measure: "evaluation", or "benchmark" for cells whose `run_id` names a folder of benchmarks/.
    """
    store = RunStore(root)
    look = _benchmark if measure == "benchmark" else _evaluation
    return [look(cell, store) for cell in cells]


def _evaluation(cell: CellLike, store: RunStore) -> Record:
    run = store.run(cell.run_id)
    evaluation = run.evaluation(cell.eval_id)
    parts: dict[str, Any] = {"run": run, "evaluation": evaluation}
    status = parts["status"] = run.inspect()
    reason = "" if status.state == "done" else _unfinished(status)
    if status.state == "done":
        parts["run_result"] = run.result() or {}
        sampled = evaluation.inspect()
        if sampled.state == "done":
            parts["evaluation_result"] = evaluation.result() or {}
        else:
            parts["status"] = sampled
            reason = "trained, not evaluated" if sampled.state == "missing" else _unfinished(sampled, "evaluation ")
    if not reason:
        parts["metrics"] = {
            **_numbers(parts["run_result"].get("metrics", {})),
            **_numbers({k: v for k, v in parts["run_result"].items() if k not in ("schema", "step", "max_steps")}),
            **_numbers(parts["evaluation_result"].get("metrics", {})),
        }
    return _record(cell, reason, parts)


def _benchmark(cell: CellLike, store: RunStore) -> Record:
    try:
        result = read_json(store.root / "benchmarks" / cell.run_id / "result.json")
    except FileNotFoundError:
        return _record(cell, "not run", {})
    except UserError as error:
        return _record(cell, f"failed: {error}", {})
    parts = {"metrics": _numbers(result.get("metrics", {})), "run_result": result, "status": Status("done")}
    return _record(cell, "", parts)


def _record(cell: CellLike, reason: str, parts: Mapping[str, Any]) -> Record:
    labels = {str(axis): str(label) for axis, label in cell.labels.items()}
    return Record(labels, dict(cell.overrides), cell.seed, cell.run_id, cell.eval_id, reason=reason, **parts)


def _unfinished(status: Status, prefix: str = "") -> str:
    """A reason short enough for a table cell."""
    done = f" {100 * status.step / status.max_steps:.0f}%" if status.max_steps else ""
    phase = {"sample": "sampling", "evaluate": "evaluating"}.get(status.phase, "running")
    return {
        "missing": "not run",
        "running": f"{phase}{done if phase == 'running' else ''}",
        "stale": f"{prefix}interrupted{f' at{done}' if done else ''}",
        "stopped": f"{prefix}stopped{f' at{done}' if done else ''}",
        "failed": f"{prefix}failed: {status.reason or status.cause or 'no reason was recorded'}",
    }[status.state]


def _numbers(raw: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the values; integers stay exact."""
    return {
        key: value
        for key, value in raw.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings by dotted key."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return {}
    return raw if isinstance(raw, dict) else {}
