"""Rows with cells that were retried with values of their own (`ablate retry SWEEP KEY=VALUE`), in words."""

from __future__ import annotations

from collections.abc import Sequence

from reports.aggregate import Row, row_names
from sweeps.amendments import amendment_words


def amended_notes(rows: Sequence[Row]) -> list[str]:
    """What is set in some cells of the rows over what their labels say; [] where nothing is."""
    found, names = [], row_names(rows)
    for row in rows:
        seeds: dict[str, list[int]] = {}
        for record in row.records:
            if record.amended:
                seeds.setdefault(" ".join(amendment_words(record.amended)), []).append(record.seed)
        for words, these in seeds.items():
            whole = len(these) == len(row.records)
            where = "" if whole else f", seed {', '.join(map(str, these))}"
            found.append(f"{names[row]}{where}: {words}")
    return [f"Amended by `ablate retry`: {'; '.join(found)}."] if found else []
