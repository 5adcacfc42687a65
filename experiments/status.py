"""What `status.json` of a run or an evaluation says."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from experiments.errors import UserError
from experiments.files import read_json
from experiments.shapes import NUMBER, misfit

State = Literal["missing", "running", "interrupted", "stopped", "failed", "done"]
"""`interrupted` is what says running though its owner is gone, `stopped` what ended in good order before it was done.
Both can go on."""
Part = Literal["all", "train", "evaluate"]
"""What a process does of its configurations: the training they share, what comes after it, or both."""


@dataclass(frozen=True)
class Status:
    """What `status.json` holds: how far the latest attempt is."""

    state: State = "missing"
    phase: str = ""
    """start, train, sample or evaluate."""
    step: int = 0
    max_steps: int = 0
    loss: float | None = None
    steps_per_s: float | None = None
    updated_at: float = 0.0
    """Unix seconds."""
    attempt: int = 0
    reason: str = ""
    cause: str = ""
    """A key of `experiments.failures.CAUSES`."""
    host: str = ""
    pid: int = 0
    job: str = ""
    """Slurm job, or ""."""
    start: str = ""
    """In the phase of that name: the run that is trained first, since this one begins with its weights."""
    device_seconds: float = 0.0
    """Of all attempts: the time of each, up to its last sign of life, times the devices it held."""
    failed_as: str = ""
    """Cause of the latest failure; "" if there was none since the work last got further."""
    failed_at: int = 0
    """The farthest step that a failed attempt reached."""
    repeats: int = 0
    """Failures of that cause in a row, none of which got further."""
    forgiven_at: int = 0
    """Attempts that there had been when a failure was last forgiven."""

    @property
    def owner(self) -> str:
        """The process that made the latest attempt, in words."""
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}" if self.pid else "another process"

    @classmethod
    def read(cls, path: Path) -> Status:
        """Read `status.json`; `missing` if there is none. Raises UserError if it is damaged."""
        try:
            raw = read_json(path)
        except FileNotFoundError:
            return cls()
        shape = {item.name: _SHAPES[type(item.default)] for item in fields(cls)}
        wrong = misfit(raw, shape)
        if not wrong and raw.get("state") not in ("running", "stopped", "failed", "done"):
            wrong = "no state in it"
        if wrong:
            raise UserError(f"{path} is damaged ({wrong}); remove it and run the same command again.")
        return cls(**{key: value for key, value in raw.items() if key in shape})


_SHAPES = {str: str, int: int, float: NUMBER, type(None): (*NUMBER, type(None))}
"""Type of a default -> what status.json may hold in its place."""
