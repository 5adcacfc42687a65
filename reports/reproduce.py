"""Run a finished cell again from its stored configuration, under another root, and compare what is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import build_config, to_dict
from experiments.errors import UserError
from experiments.identity import evaluation_id, run_id
from experiments.store import RunStore
from reports.aggregate import standard_error
from reports.facts import differing_facts
from reports.quantities import EXACT, SPANS, heading, is_cost, printed, quantity
from reports.records import Record, record_of

if TYPE_CHECKING:
    from reports.subject import Subject

PLACE = ("device", "devices", "num_nodes", "strategy", "num_workers", "threads", "kernels")
"""Keys of `runtime` that say what a run is carried out on: they need not fit another machine."""


@dataclass(frozen=True)
class Line:
    """One metric, then and now."""

    name: str
    then: float | None
    now: float | None
    differs: bool
    remark: str = ""

    @property
    def label(self) -> str:
        """The metric's name, with the unit of its numbers where it does not stand with them."""
        return heading(self.name)

    @property
    def shown(self) -> tuple[str, str, str]:
        """Both numbers and their difference, as printed."""
        then, now = ("-" if value is None else printed(self.name, value) for value in (self.then, self.now))
        if self.then is None or self.now is None:
            return then, now, "-"
        change = self.now - self.then
        if self.name in SPANS:
            return then, now, f"{'+' if change >= 0 else ''}{printed(self.name, change)}"
        return then, now, f"{change * quantity(self.name).scale:+.3g}"


@dataclass(frozen=True)
class Reproduction:
    """Both results."""

    cell: str
    folder: Path
    """Of the new evaluation."""
    lines: tuple[Line, ...]
    surroundings: dict[str, tuple[str, str]]
    """What was not the same around the two runs: code, libraries, hardware, kernels."""

    @property
    def differing(self) -> list[Line]:
        """The metrics that came out differently."""
        return [line for line in self.lines if line.differs]

    def as_json(self) -> dict[str, Any]:
        """For `ablate reproduce --json`."""
        return {
            "cell": self.cell,
            "folder": str(self.folder),
            "metrics": {
                line.name: {"then": line.then, "now": line.now, "differs": line.differs} for line in self.lines
            },
            "differing": [line.name for line in self.differing],
            "surroundings": self.surroundings,
        }


def reproduce(subject: Subject, word: str, into: Path | None = None, tolerance: float = 0.01) -> Reproduction:
    """Train, sample and measure the cell that `word` names again, and compare.

    It is done as the stored configuration says, on what the subject was asked for with: `runtime.device=cpu` and its
    like (`PLACE`).

    Args:
        into: root of the new run; by default a folder in reproduced/ under the subject's root, called after run and
            evaluation. A run that was interrupted there goes on; beside a finished one another is made.
        tolerance: relative difference that still agrees; of numbers near zero, relative to their standard error.

    Raises:
        UserError: no such cell, or no finished one; a benchmark; `into` is where the cell is, or holds its twin.
    """
    record = subject.find(word)
    if record.benchmark is not None:
        raise UserError(f"{record.cell} is a benchmark: its timings are taken again with {subject.command}.")
    if record.reason or record.evaluation is None:
        raise UserError(f"{record.cell} is not finished ({record.reason or 'not run'}): there is nothing to reproduce.")
    root = into or _unfinished(subject.root / "reproduced", record)
    if root.resolve() == subject.root.resolve():
        raise UserError(f"{root} is where the cell itself is; name another folder with --into.")
    place = {key: record.overrides[key] for key in (f"runtime.{name}" for name in PLACE) if key in record.overrides}
    config = build_config(to_dict(record.evaluation.config()), {**place, "runtime.root": str(root)})
    if (run_id(config), evaluation_id(config)) != (record.run_id, record.eval_id):
        raise UserError(
            f"{record.cell}: its stored configuration means another run today; a default has changed since."
        )
    run = RunStore(root).run(record.run_id)
    if run.evaluation(record.eval_id).is_done():
        raise UserError(f"{root} holds this evaluation already; name another folder with --into.")
    from experiments.execute import execute

    execute([config])
    again = record_of(run)
    return Reproduction(
        record.cell,
        run.evaluation(record.eval_id).folder,
        compare_metrics(record, again, tolerance),
        differing_facts(record, again),
    )


def compare_metrics(then: Record, now: Record, tolerance: float) -> tuple[Line, ...]:
    """Every metric then and now; costs are not compared. One that was measured then and is not now differs: results
    leave out what is not finite.

    Args:
        tolerance: as in `reproduce`; 0 = to the last digit.
    """
    lines = []
    for name in dict.fromkeys([*then.metrics, *now.metrics]):
        a, b = then.metrics.get(name), now.metrics.get(name)
        if is_cost(name) and name not in EXACT:
            lines.append(Line(name, a, b, False, "cost, not compared"))
        elif a is None:
            lines.append(Line(name, a, b, False, "not measured then"))
        elif b is None or not math.isfinite(b):
            lines.append(Line(name, a, b, True, "not measured now" if b is None else "not finite now"))
        else:
            allowed = tolerance * max(abs(a), abs(b), standard_error(then, name)[0] or 0.0)
            lines.append(Line(name, a, b, abs(a - b) > allowed, "equal" if a == b else "agrees"))
    return tuple(lines)


def _unfinished(folder: Path, record: Record) -> Path:
    """The first root for this evaluation in which it is not done yet."""
    name = f"{record.run_id}-{record.eval_id}"
    roots = (folder / (name if number == 1 else f"{name}-{number}") for number in count(1))
    root = next(root for root in roots if not RunStore(root).run(record.run_id).evaluation(record.eval_id).is_done())
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror}; name another folder with --into.") from error
    return root
