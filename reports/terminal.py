"""A report's table on a terminal, however narrow: no number is broken."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.tables import Entry, Head, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

GAP = 2
"""Blanks between columns."""
REASON = 12
"""Characters a line of why a number is missing, at least."""
STYLES = {"best": "bold", "second": "underline"}


@dataclass(frozen=True)
class _Column:
    head: Text
    cells: Sequence[Text]
    width: int
    is_label: bool


def print_table(table: Table, screen: Console) -> None:
    """Columns that have no room beside the others follow in a further table, under the same labels."""
    from rich.table import Table as RichTable
    from rich.text import Text

    columns = [_column(head, [row.entries[at] for row in table.rows]) for at, head in enumerate(table.heads)]
    for number, block in enumerate(_blocks(columns, screen.width)):
        title = None if number else Text(table.title, "bold")
        grid = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for column in block:
            grid.add_column(column.head, no_wrap=True)
        group = ""
        for at, row in enumerate(table.rows):
            if row.group != group:
                group = row.group
                grid.add_row(Text(group, "italic"))
            grid.add_row(*(column.cells[at] for column in block))
        if number:
            screen.print()
        screen.print(grid)


def _blocks(columns: Sequence[_Column], room: int) -> Iterator[list[_Column]]:
    """As many columns side by side as fit, at least one, after those that name the rows."""
    labels = [column for column in columns if column.is_label]
    taken = sum(column.width + GAP for column in labels)
    block, used = list(labels), taken
    for column in columns:
        if column.is_label:
            continue
        if used + column.width > room and used > taken:
            yield block
            block, used = list(labels), taken
        block.append(column)
        used += column.width + GAP
    yield block


def _column(head: Head, entries: Sequence[Entry]) -> _Column:
    """Numbers stand below each other, whatever is marked behind them; of reasons why there is none, words may wrap."""
    from rich.cells import cell_len
    from rich.text import Text

    is_label = head.kind == "label"
    words = [*head.over.split(), *head.text.split()]
    least = [cell_len(word) for word in ([head.text] if is_label else words)]
    least += [min(cell_len(e.text), REASON if e.kind == "missing" else cell_len(e.text)) for e in entries]
    width = max([*least, *(cell_len(e.interval) for e in entries)], default=0)
    behind = max(map(_mark_width, entries), default=0)

    def place(line: str) -> str:
        return line if is_label else " " * (width - cell_len(line)) + line

    cells = []
    for entry in entries:
        lines = textwrap.wrap(entry.text, width) if entry.kind == "missing" else [entry.text]
        cell = Text()
        for number, line in enumerate(lines):
            indent = place(line)
            cell.append(indent[: len(indent) - len(line)])
            cell.append(line, STYLES.get(entry.rank, "dim" if entry.kind in ("missing", "paper") else ""))
            if number == len(lines) - 1:
                cell.append(f" {entry.doubt}" if entry.doubt else "").append(_letters(entry), "dim")
            cell.append("\n" if number + 1 < len(lines) else "")
        if entry.interval:
            cell.append(f"\n{place(entry.interval)}", "dim")
        cells.append(cell)
    lines = [line for part in (head.over, head.text) for line in textwrap.wrap(part, width)]
    return _Column(Text("\n".join(map(place, lines))), cells, width + behind, is_label)


def _letters(entry: Entry) -> str:
    return f" {','.join(entry.marks)}" if entry.marks else ""


def _mark_width(entry: Entry) -> int:
    return (2 if entry.doubt else 0) + len(_letters(entry))
