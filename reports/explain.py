"""Everything behind one cell: what it measured, how it differs, where it comes from, and how to make it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reports.provenance import origin_lines
from reports.quantities import heading, is_end, printed, with_ends
from reports.subject import Subject


@dataclass(frozen=True)
class Explanation:
    """What `ablate explain` shows of one cell."""

    cell: str
    state: str
    """ "done", or why there is no measurement."""
    metrics: dict[str, float]
    """As stored: seconds, bytes, fractions."""
    protocol: dict[str, Any]
    difference: str
    """From the baseline row; "" without one."""
    flags: tuple[str, ...]
    origin: tuple[tuple[str, str], ...]
    folder: str
    reproduce: str

    def as_json(self) -> dict[str, Any]:
        """The same as plain dictionaries."""
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """For a terminal: (what, value)."""
        result = [("cell", self.cell), ("state", self.state)]
        for name in self.metrics:
            if not is_end(name, self.metrics):
                result.append((heading(name), with_ends(name, self.metrics)))
        result += [("baseline", self.difference)] if self.difference else []
        result += [("flag", flag) for flag in self.flags]
        for key, value in self.protocol.items():
            if key == "floor":
                value = {heading(name): printed(name, number) for name, number in value.items()}
            result.append((f"protocol: {key}", _plain(value)))
        return [*result, *self.origin, ("folder", self.folder), ("again", self.reproduce)]


def _plain(value: Any) -> str:
    """A value of a protocol as a person writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return format(value, ".5g") if isinstance(value, float) else str(value)


def explain(subject: Subject, word: str) -> Explanation:
    """Explain the cell that `word` names. Raises UserError if none or several fit."""
    record = subject.find(word)
    place = next(index for index, row in enumerate(subject.rows) if record in row.records)
    difference = next((item.text for item in subject.one_factor if item.row == place), "")
    return Explanation(
        cell=record.cell,
        state=record.reason or "done",
        metrics=dict(record.metrics),
        protocol=dict(record.protocol),
        difference=difference,
        flags=tuple(flag.text for flag in subject.flags if flag.row == place),
        origin=tuple(origin_lines(record)),
        folder=str(record.works[-1 if record.metrics else 0].folder) if record.works else "",
        reproduce=subject.command_of(record),
    )
