"""`ablate list --runs`: every run under a root, however it was begun. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.store import Run, RunStore

SHOWN = ("val/loss", "fd_efflite0")
"""Metrics in the table: of the training, and of the evaluation that was measured last."""


def run_records(root: Path | str) -> list[dict[str, Any]]:
    """One record a run, the latest last: id, state, step, max_steps, overrides, evaluations, metrics."""
    runs = sorted(RunStore(root).runs(), key=lambda run: run.config_path.stat().st_mtime)
    return [_record(run) for run in runs]


def _record(run: Run) -> dict[str, Any]:
    status = run.inspect()
    overrides = run.folder / "overrides.txt"
    try:
        found = [run.result() or {}, *(evaluation.result() or {} for evaluation in run.evaluations())]
    except UserError:
        found = []
    done = [result for result in found[1:] if result]
    return {
        "run": run.id,
        "state": status.state,
        "step": status.step,
        "max_steps": status.max_steps,
        "overrides": overrides.read_text().split() if overrides.exists() else [],
        "evaluations": len(done),
        "metrics": {name: value for result in found for name, value in result.get("metrics", {}).items()},
    }


def run_table(records: list[dict[str, Any]]) -> Any:
    """The records as a table for a terminal."""
    from rich.table import Table

    table = Table(box=None)
    for column in ("run", "state", "steps", *SHOWN, "evaluations", "made with"):
        table.add_column(column, no_wrap=column == "run", overflow="fold")
    for record in records:
        steps = f"{record['step']}/{record['max_steps']}" if record["max_steps"] else ""
        values = [format(record["metrics"][name], ".4g") if name in record["metrics"] else "" for name in SHOWN]
        table.add_row(record["run"], record["state"], steps, *values, str(record["evaluations"]), _words(record))
    return table


def _words(record: dict[str, Any]) -> str:
    words = [word for word in record["overrides"] if not word.startswith("runtime.")]
    return "published weights" if any(word.startswith("imported=") for word in words) else " ".join(words)
