"""What searches chose, in words."""

from __future__ import annotations

from collections.abc import Sequence

from reports.quantities import quantity
from reports.records import Record


def search_notes(records: Sequence[Record]) -> list[str]:
    """For each record whose values were searched: what was chosen, out of how many trials, and how good it seemed."""
    notes = []
    for record in records:
        if not record.search:
            continue
        chosen = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in record.search["chosen"].items())
        ((metric, value),) = record.search["metrics"].items()
        known, trials = quantity(metric), len(record.search["trials"])
        judged = f"{known.plain} {known.text(value)} on other samples than the table's"
        notes.append(f"{record.name}: {chosen}, the best of {trials} trials ({judged}).")
    return notes
