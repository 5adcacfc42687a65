"""Tables of cells for terminals, and the same as plain data for --json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from experiments.errors import UserError
from experiments.failures import CAUSES
from experiments.store import RunStore
from lightning_modules.names import some
from sweeps.planner import Cell, Plan
from sweeps.state import CellState

STYLES = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}
STYLES |= dict.fromkeys(("interrupted", "stopped"), "yellow")
_COMING = ("starting", "queued")
_ORDER = ("running", "failed", "interrupted", "stopped", "missing", "done")
WIDE = 110
"""Characters from which on a terminal has room for what a narrow one does without."""
SILENT = 120.0
"""Seconds without a sign of life after which a table marks them."""


def duration(seconds: float) -> str:
    """A time span for people: "8 s", "3:05", "2:03:00"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def folded(name: str, width: int) -> str:
    """A cell's name in a terminal of this width: broken behind commas once it takes more than two fifths of it."""
    lines = [""]
    for part in name.split(","):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width * 2 // 5:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f",{part}" if lines[-1] else part
    return "\n".join(lines)


def status_table(plan: Plan, states: Mapping[str, CellState], width: int, limit: int = 0) -> Table:
    """One row per cell; columns without an entry are left out.

    Args:
        width: characters of the terminal.
        limit: at most so many rows, the most telling first; 0 = all, in the sweep's order.
    """
    cells = list(plan.cells)
    if limit and len(cells) > limit:
        cells = sorted(cells, key=lambda cell: _ORDER.index(states[cell.name].state))[:limit]
    rows = [_row(cell, states[cell.name], width) for cell in cells]
    names = ("cell", "state", "step", "loss", "it/s", "ETA", "heard", "tries", "node")
    shown = [at for at in range(len(names)) if at < 2 or any(row[at] for row in rows)]
    table = Table(title=f"{plan.sweep.name} · {plan.scale}", caption=summary(states), caption_justify="left", box=None)
    for name in (names[at] for at in shown):
        justify: JustifyMethod = "left" if name in ("cell", "state", "node") else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "cell")
    for row in rows:
        table.add_row(*(row[at] for at in shown))
    return table


def _row(cell: Cell, state: CellState, width: int) -> list[Text | str]:
    status, now = state.status, state.now
    text = Text(state.describe(), style="blue" if _word(state) in _COMING else STYLES[state.state])
    step, steps = _steps(cell, state)
    eta, silent = state.eta_seconds, state.silent_seconds
    heard = "" if silent is None else f"{duration(silent)} ago"
    return [
        folded(cell.name, width),
        text,
        f"{step}/{steps}" if steps else "",
        "" if now.loss is None else f"{now.loss:.3f}",
        "" if now.steps_per_s is None or state.state != "running" else f"{now.steps_per_s:.2f}",
        "" if eta is None else duration(eta),
        Text(heard, style="yellow" if silent and silent > SILENT else ""),
        str(status.attempt) if status.attempt > 1 else "",
        status.host if state.state not in ("missing", "done") else "",
    ]


def _steps(cell: Cell, state: CellState) -> tuple[int, int]:
    """How many of how many: of the training, or its start; while evaluated, images; of a measured benchmark, rounds."""
    if state.state == "done":
        return state.steps or cell.max_steps, cell.max_steps
    return state.now.step, state.now.max_steps


def short_state(state: CellState) -> str:
    """One cell in one line of a log."""
    if state.state == "failed":
        return state.describe()  # a sentence, which ends with a point
    status, eta = state.now, state.eta_seconds
    done = f"{status.step}/{status.max_steps}"
    far = f"{done} samples" if state.part == "evaluation" else f"step {done}"
    parts = [
        state.describe(),
        far if status.max_steps else "",
        "" if status.loss is None else f"loss {status.loss:.3f}",
        "" if status.steps_per_s is None else f"{status.steps_per_s:.2f} it/s",
        "" if eta is None else f"{duration(eta)} left",
    ]
    return ", ".join(part for part in parts if part)


def summary(states: Mapping[str, CellState]) -> str:
    """ "3 of 4 cells done, 1 failed." """
    counts = Counter(map(_word, states.values()))
    shown = [name for name in (*_COMING, *_ORDER) if name != "done" and counts[name]]
    others = ", ".join(f"{counts[name]} {name}" for name in shown)
    return f"{counts['done']} of {len(states)} cells done{', ' + others if others else ''}."


def _word(state: CellState) -> str:
    """Its state, unless it is about to be worked on."""
    if state.is_queued:
        return "queued"
    return state.local if state.local and state.is_open else state.state


def device_time(plan: Plan, states: Mapping[str, CellState]) -> float:
    """Device-seconds that the cells and the searches for their values have taken so far, all attempts together; what
    cells share counts once."""
    store, seconds = RunStore(plan.root), dict[Path, float]()
    for cell in plan.cells:
        works = cell.works(store)
        if states[cell.name].part != "training":
            seconds[works[-1].folder] = states[cell.name].status.device_seconds
        with suppress(UserError):  # what is damaged is shown with its cell
            if cell.search_id:
                search = store.search(cell.search_id)
                seconds[search.folder] = search.device_seconds()
                if (search.result() or {}).get("trained_by_trial"):
                    continue  # which has counted it
            for work in works[:-1]:
                if work.folder not in seconds:
                    seconds[work.folder] = work.status().device_seconds
    return sum(seconds.values())


def failures(states: Mapping[str, CellState]) -> dict[str, dict[str, list[str]]]:
    """Failed cells by cause, then by reason."""
    result: dict[str, dict[str, list[str]]] = {}
    for name, state in states.items():
        if state.state == "failed":
            result.setdefault(state.status.cause or "other", {}).setdefault(state.status.reason, []).append(name)
    return result


def failure_lines(states: Mapping[str, CellState]) -> list[str]:
    """The failures for people, the commonest cause first."""
    lines = []
    for cause, reasons in sorted(failures(states).items(), key=lambda item: -sum(map(len, item[1].values()))):
        lines.append(f"{CAUSES.get(cause, cause)} ({cause}): {sum(map(len, reasons.values()))}")
        for reason, names in reasons.items():
            lines.append(f"  {some(names, 3)}: {reason}")
    return lines


def cell_json(cell: Cell, state: CellState) -> dict[str, Any]:
    """One cell as plain data."""
    status, now, (step, steps) = state.status, state.now, _steps(cell, state)
    return {
        "cell": cell.name,
        "labels": dict(cell.labels),
        "seed": cell.seed,
        "run_id": cell.run_id,
        "eval_id": cell.eval_id,
        "search_id": cell.search_id,
        "state": state.state,
        "part": state.part,
        "phase": status.phase,
        "step": step,
        "max_steps": steps or cell.max_steps,
        "percent": round(state.percent, 1),
        "loss": now.loss,
        "steps_per_s": now.steps_per_s,
        "eta_seconds": state.eta_seconds,
        "silent_seconds": state.silent_seconds,
        "attempt": status.attempt,
        "device_seconds": round(status.device_seconds, 1),
        "host": status.host,
        "pid": status.pid,
        "job": status.job,
        "queued": state.queue.job if state.queue and state.is_queued else "",
        "cause": status.cause,
        "reason": status.reason,
    }
