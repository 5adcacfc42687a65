"""Where the cells' logs are, and what they say."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from sweeps.planner import Cell, Plan
from sweeps.submissions import read_submissions


def log_path(plan: Plan, group: str) -> Path:
    """Where the worker that runs this group of cells prints to: the same file whichever of its cells are still open."""
    return plan.folder / "logs" / f"{group}.log"


def open_log(path: Path) -> IO[bytes]:
    """Open for appending, with a line that tells attempts apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, "ab", buffering=0)
    log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n".encode())
    return log


def last_line(path: Path) -> str:
    """The last line with something in it, without the command's "Error: "."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if lines and not lines[-1].startswith("--- "):
            return lines[-1].removeprefix("Error: ").removeprefix("Failed: ")[:400]
    return ""


def newest_log(plan: Plan, cell: Cell) -> Path | None:
    """The log of the latest attempt at this cell, local or in a job; None if there is none."""
    paths = [log_path(plan, cell.group)]
    paths += [plan.folder / "logs" / f"{other.name}.log" for other in plan.cells if other.group == cell.group]  # older
    for item in read_submissions(plan.folder):
        tasks = [index for index, group in enumerate(item.groups) if group == cell.group]
        paths += [plan.folder / "logs" / f"slurm-{item.job}_{index}.log" for index in tasks]
    return max((path for path in paths if path.exists()), key=lambda path: path.stat().st_mtime, default=None)
