"""How far the cells of a sweep are, read from the run store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from experiments.errors import UserError
from experiments.failures import RESUMABLE
from experiments.status import Status
from experiments.store import Run, RunStore
from sweeps.queue import ENDINGS, Queue, Task, with_accounting

if TYPE_CHECKING:
    from sweeps.cell import Cell


@dataclass(frozen=True)
class CellState:
    """A cell's status and which of its two parts it speaks of."""

    status: Status
    part: Literal["training", "search", "evaluation", "benchmark"]
    queue: Task | None = None
    """By which it stands in Slurm's queue, if it is not done."""
    steps: int = 0
    """At which its training ended, if that is done: fewer than planned where it was stopped early."""
    local: Literal["", "starting", "queued"] = ""
    """What this process' own launcher has done about it, which the run store cannot say yet."""
    start: Status | None = None
    """Of the run whose weights it begins with, while that is trained first."""

    @property
    def state(self) -> str:
        """missing, running, interrupted, stopped, failed or done."""
        return self.status.state

    @property
    def is_open(self) -> bool:
        """Whether `ablate run` has something to start here: not done, at work, queued, or failed for good."""
        if self.is_queued:
            return False
        if self.state == "failed":
            return self.status.cause in RESUMABLE
        return self.state in ("missing", "interrupted", "stopped")

    @property
    def is_queued(self) -> bool:
        """Whether a job of Slurm's is going to work on it, or has just started."""
        return self.queue is not None and self.state != "running"

    @property
    def now(self) -> Status:
        """Of what is being worked on: the part itself, or its start."""
        return self.start or self.status

    @property
    def percent(self) -> float:
        """Progress of the part, or of its start, in per cent."""
        if self.state == "done":
            return 100.0
        return 100.0 * self.now.step / self.now.max_steps if self.now.max_steps else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the training's last step, or its start's, as fast as it goes now."""
        if self.state != "running" or self.part != "training" or not self.now.steps_per_s:
            return None
        return max(0, self.now.max_steps - self.now.step) / self.now.steps_per_s

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since the last sign of life, if it is running."""
        return max(0.0, time.time() - self.now.updated_at) if self.state == "running" else None

    def describe(self) -> str:
        """A few words for a table: "running 43 %", "failed: out of memory ..."."""
        at = f" at {self.percent:.0f} %" if self.status.step else ""
        if self.local and self.is_open:
            return f"{self.local}{at}"
        if self.queue and self.is_queued:
            place = f"job {self.queue.job}"
            if self.queue.is_waiting:
                return f"queued{at} ({place}: {self.queue.reason})"
            return f"{'ending' if self.queue.is_ending else 'starting'}{at} ({place})"
        if self.state == "failed":
            return f"failed: {self.status.reason or self.status.cause}"
        if self.state == "missing":
            return {"evaluation": "trained, not evaluated", "search": "not searched"}.get(self.part, "missing")
        if self.state == "done":
            return "done"
        doing = {"training": "", "search": " searching", "benchmark": " measuring"}.get(self.part, " evaluating")
        doing = " sampling" if self.status.phase == "sample" else " its start," if self.start else doing
        why = f" ({self.status.reason})" if self.state == "interrupted" and self.status.reason else ""
        return f"{self.state}{doing} {self.percent:.0f} %{why}"


def forgiven(states: Mapping[str, CellState]) -> dict[str, CellState]:
    """The states as they will be when failures are cleared: what failed is open."""
    failed = {name: state for name, state in states.items() if state.state == "failed"}
    cleared = {name: replace(s, status=replace(s.status, state="stopped", cause="")) for name, s in failed.items()}
    return {**states, **cleared}


def exit_code(states: Mapping[str, CellState]) -> int:
    """1 if a cell failed, else 0."""
    return 1 if any(state.state == "failed" for state in states.values()) else 0


def with_queue(states: Mapping[str, CellState], cells: Iterable[Cell], queue: Queue) -> dict[str, CellState]:
    """Add what Slurm knows: places in the queue, and how jobs ended whose runs could not say it themselves."""
    result, attempts = dict(states), dict[str, Task]()
    for cell in cells:
        state = states[cell.name]
        if state.state in ("done", "running"):
            continue
        if place := queue.place(cell.group):
            result[cell.name] = _queued(state, place)
        elif state.state == "missing" or state.state == "interrupted" and state.status.job:
            part = "train" if state.part == "training" else "evaluate"
            if attempt := queue.attempt(cell.group, state.status.job, part):
                attempts[cell.name] = attempt
    for name, attempt in with_accounting(attempts).items():
        result[name] = _ended(states[name], attempt)
    return result


def _queued(state: CellState, place: Task) -> CellState:
    if state.state != "failed":
        return replace(state, queue=place)
    # What failed for good stays so; what did not was submitted again.
    return replace(state, status=replace(state.status, state="stopped"), queue=place) if state.is_open else state


def _ended(state: CellState, attempt: Task) -> CellState:
    """The state of a cell whose latest attempt that task made, and which says nothing of its end."""
    status = state.status
    cause, reason = ENDINGS.get(attempt.state, ("", ""))
    if cause == "oom":
        return replace(state, status=replace(status, state="failed", cause=cause, reason=reason))
    if cause:
        return replace(state, status=replace(status, cause=cause, reason=reason))
    if attempt.state == "FAILED" and state.state == "missing" and state.part != "evaluation":
        reason = f"job {attempt.job} failed before the run began; see its log"
        return replace(state, status=replace(status, state="failed", cause="killed", reason=reason))
    return state


def cell_states(cells: Iterable[Cell], store: RunStore) -> dict[str, CellState]:
    """The state of every cell by its name. A cell is done if its benchmark is, or its evaluation, where the result of
    the training is there, too: tables tell numbers of both."""
    trainings: dict[str, Status] = {}
    evaluations: dict[tuple[str, str], Status] = {}
    result: dict[str, CellState] = {}
    for cell in cells:
        if cell.measure == "benchmark":
            result[cell.name] = CellState(store.benchmark(cell.eval_id).inspect(), "benchmark")
            continue
        now = cell.settled(store)
        run = store.run(now.run_id)
        key = (now.run_id, now.eval_id)
        if now.eval_id and key not in evaluations:
            evaluations[key] = run.evaluation(now.eval_id).inspect()
        if now.eval_id and evaluations[key].state != "missing":
            steps = _steps(run)
            if steps is not None or evaluations[key].state != "done":
                result[cell.name] = CellState(evaluations[key], "evaluation", steps=steps or 0)
                continue
        if now.run_id and now.run_id not in trainings:
            trainings[now.run_id] = run.inspect()
        training = trainings.get(now.run_id)
        if training and training.state != "done":
            result[cell.name] = CellState(training, "training", start=_start(training, store))
        elif now.eval_id:
            result[cell.name] = CellState(Status(), "evaluation", steps=_steps(run) or 0)
        else:
            result[cell.name] = CellState(store.search(now.search_id).inspect(), "search")
    return result


def _start(training: Status, store: RunStore) -> Status | None:
    """Of the run that is trained first for a training, or first for that one."""
    if training.state != "running" or training.phase != "start" or not training.start:
        return None
    start = store.run(training.start).inspect()
    return _start(start, store) or (start if start.state == "running" else None)


def _steps(run: Run) -> int | None:
    """How far the training got; None where its result is damaged or gone."""
    try:
        result = run.result()
    except UserError:  # which is shown where the training itself is
        return None
    return None if result is None else int(result.get("step", 0))
