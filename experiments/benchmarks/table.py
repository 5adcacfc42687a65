"""A benchmark on the terminal."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from experiments.benchmarks.bench import Bench, Row


def show(bench: Bench, *, as_json: bool) -> None:
    """Print the table, or the JSON."""
    if as_json:
        print(json.dumps(bench.to_dict(), indent=2))
        return
    console = Console()
    console.print(f"[bold]{bench.title}[/]")
    speed, bandwidth = bench.machine.get("multiply_adds_per_s"), bench.machine.get("bytes_per_s")
    limits = f", {speed / 1e9:.0f} G multiply-add/s, reads {bandwidth / 1e9:.1f} GB/s" if speed else ""
    console.print(f"{bench.machine['processor']}, {bench.machine['threads']} threads{limits}")
    for contender, error in bench.checks.items():
        console.print(f"checked against float64: {contender} within {error:.1e}")
    console.print(_table(bench))
    for note in bench.notes:
        console.print(f"[dim]{note}[/]")


def _table(bench: Bench) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("case", "phase", "contender"):
        table.add_column(heading)
    for heading in ("median ms", "fastest", "spread", f"x {bench.baseline}", "peak MiB", "x floor"):
        table.add_column(heading, justify="right")
    previous: Row | None = None
    for row in bench.rows:
        same_case = previous is not None and (row.case, row.phase) == (previous.case, previous.phase)
        table.add_row(
            "" if same_case else row.case,
            "" if same_case else row.phase,
            row.contender,
            f"{row.median_ms:.2f}",
            f"{row.fastest_ms:.2f}",
            f"{row.spread:.0%}",
            f"{row.ratio:.2f}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}",
            "-" if row.over_floor is None else f"{row.over_floor:.2f}",
        )
        previous = row
    return table
