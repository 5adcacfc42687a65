"""How far the cells of a sweep are, read from the run store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from experiments.failures import RESUMABLE
from experiments.store import RunStore
from experiments.work import Status

if TYPE_CHECKING:
    from sweeps.planner import Cell


@dataclass(frozen=True)
class CellState:
    """A cell's status and which of its two parts it speaks of."""

    status: Status
    part: Literal["training", "evaluation"]

    @property
    def state(self) -> str:
        """missing, running, stale, stopped, failed or done."""
        return self.status.state

    @property
    def is_open(self) -> bool:
        """Whether `ablate run` has something to start here: not done, not at work, not failed for a lasting reason."""
        if self.state == "failed":
            return self.status.cause in RESUMABLE
        return self.state in ("missing", "stale", "stopped")

    @property
    def percent(self) -> float:
        """Progress of the part in per cent."""
        if self.state == "done":
            return 100.0
        return 100.0 * self.status.step / self.status.max_steps if self.status.max_steps else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the training's last step, as fast as it goes now."""
        if self.state != "running" or self.part != "training" or not self.status.steps_per_s:
            return None
        return max(0, self.status.max_steps - self.status.step) / self.status.steps_per_s

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since the last sign of life, if it is running."""
        return max(0.0, time.time() - self.status.updated_at) if self.state == "running" else None

    def describe(self) -> str:
        """A few words for a table: "running 43 %", "failed: out of memory ..."."""
        if self.state == "failed":
            return f"failed: {self.status.reason or self.status.cause}"
        if self.state == "missing":
            return "missing" if self.part == "training" else "trained, not evaluated"
        if self.state == "done":
            return "done"
        doing = "" if self.part == "training" else " sampling" if self.status.phase == "sample" else " evaluating"
        word = {"running": "running", "stale": "interrupted", "stopped": "stopped"}[self.state]
        return f"{word}{doing} {self.percent:.0f} %"


def cell_states(cells: Iterable[Cell], store: RunStore) -> dict[str, CellState]:
    """The state of every cell by its name. A cell is done if its evaluation is, whatever became of the training."""
    trainings: dict[str, Status] = {}
    evaluations: dict[tuple[str, str], Status] = {}
    result: dict[str, CellState] = {}
    for cell in cells:
        run = store.run(cell.run_id)
        key = (cell.run_id, cell.eval_id)
        if key not in evaluations:
            evaluations[key] = run.evaluation(cell.eval_id).inspect()
        if evaluations[key].state != "missing":
            result[cell.name] = CellState(evaluations[key], "evaluation")
            continue
        if cell.run_id not in trainings:
            trainings[cell.run_id] = run.inspect()
        training = trainings[cell.run_id]
        result[cell.name] = (
            CellState(Status(), "evaluation") if training.state == "done" else CellState(training, "training")
        )
    return result
