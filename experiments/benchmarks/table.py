"""A benchmark as a table: on the terminal, and as Markdown."""

from __future__ import annotations

from rich.table import Table

from experiments.benchmarks.bench import Bench
from experiments.terminal import console, print_json

COLUMNS = ("case", "phase", "contender", "median ms", "fastest", "spread", "x", "peak MiB", "x floor")


def show(bench: Bench, *, as_json: bool) -> None:
    """Print the table, or the JSON."""
    if as_json:
        print_json(bench.to_dict())
        return
    screen = console()
    screen.print(bench.title, style="bold")
    screen.print(_machine(bench))
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(_headings(bench)):
        table.add_column(heading, justify="left" if number < 3 else "right")
    for cells in _cells(bench):
        table.add_row(*cells)
    screen.print(table)
    for note in _notes(bench):
        screen.print(note, style="dim")


def markdown(bench: Bench) -> str:
    """The table as Markdown, with its title, the machine, the command and the notes."""
    headings = _headings(bench)
    lines = ["| " + " | ".join(headings) + " |", "|---|---|---|" + "---:|" * (len(headings) - 3)]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(bench)]
    notes = "".join(f"\n{note}\n" for note in _notes(bench))
    origin = f"{bench.title}. {_machine(bench)}; `{bench.command}`."
    return f"{origin}\n\n" + "\n".join(lines) + f"\n{notes}"


def _machine(bench: Bench) -> str:
    speed, bandwidth = bench.machine.get("multiply_adds_per_s"), bench.machine.get("bytes_per_s")
    limits = f", {speed / 1e9:.0f} G multiply-add/s, reads {bandwidth / 1e9:.1f} GB/s" if speed and bandwidth else ""
    gpu = ", ".join(["", *bench.machine["gpus"]])
    changed = " and uncommitted changes" if bench.machine["git_dirty"] else ""
    commit = f", commit {bench.machine['git_commit'][:7]}{changed}" if bench.machine["git_commit"] else ""
    # Model names of rented machines say little: with and without AVX-512 both are an "AMD EPYC".
    vectors = f" ({bench.machine['vectors']})" if "vectors" in bench.machine else ""
    return f"{bench.machine['cpu']}{vectors}{gpu}, {bench.machine['threads']} threads{limits}{commit}"


def _notes(bench: Bench) -> list[str]:
    checks = "; ".join(f"{what} {error:.1e}" for what, error in bench.checks.items())
    notes = [f"relative error, checked before timing: {checks}"] if checks else []
    if ran := bench.machine.get("backends"):
        forced = bench.machine.get("forced_kernels")
        by = f", under ABLATE_KERNELS={forced}" if forced else ""
        notes.append(f"kernels that ran: {', '.join(f'{operation} {names}' for operation, names in ran.items())}{by}")
    return [*notes, *bench.notes]


def _extra(bench: Bench) -> list[str]:
    """Columns of this benchmark alone."""
    return list(dict.fromkeys(name for row in bench.rows for name in row.extra))


def _headings(bench: Bench) -> list[str]:
    return [f"x {bench.baseline}" if name == "x" else name for name in COLUMNS] + _extra(bench)


def _cells(bench: Bench) -> list[list[str]]:
    rows, previous = [], None
    for row in bench.rows:
        same_case = previous is not None and (row.case, row.phase) == (previous.case, previous.phase)
        cells = [
            "" if same_case else row.case,
            "" if same_case else row.phase,
            row.contender,
            f"{row.median_ms:.2f}",
            f"{row.fastest_ms:.2f}",
            f"{row.spread:.0%}",
            f"{row.ratio:.2f}",
            "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.0f}",
            "-" if row.over_floor is None else f"{row.over_floor:.2f}",
        ]
        values = [row.extra.get(name) for name in _extra(bench)]
        rows.append(cells + ["-" if value is None else _number(value) for value in values])
        previous = row
    return rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
