"""The table on terminals of any width: numbers whole, rows named in every block."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from reports.terminal import print_table
from tests.reports import fakes, test_formats

NARROW = 40


@pytest.fixture(scope="module", params=["finished", "partial", "spread", "resampled"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """What the other formats are tested with."""
    return test_formats.CASES[request.param](tmp_path_factory.mktemp(request.param))


def printed(table, width: int) -> list[str]:
    stream = io.StringIO()
    print_table(table, Console(file=stream, width=width, color_system=None))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [NARROW, 60, 80, 110, 400])
def test_no_number_is_broken(subject, width: int) -> None:
    lines = printed(subject.table, width)
    assert max(map(len, lines)) <= width
    for row in subject.table.rows:
        for entry in row.entries:
            parts = (entry.text, entry.interval) if entry.kind != "missing" else ()
            assert all(any(part in line for line in lines) for part in parts), entry


def test_every_block_names_its_rows(subject) -> None:
    name = next(entry.text for entry in subject.table.rows[0].entries if entry.kind == "label")
    wide, narrow = ([line for line in printed(subject.table, w) if line.startswith(name)] for w in (400, NARROW))
    assert len(narrow) > len(wide) >= 1


def test_numbers_stand_below_each_other_whatever_is_marked_behind_them(tmp_path: Path) -> None:
    lines = printed(test_formats.resampled(tmp_path).table, 400)
    rows = [line for line in lines if "serial_v" in line]
    marked = [line for line in rows if " =" in line]
    assert marked and len(marked) < len(rows)
    ends = {line.index(text) + len(text) for line, text in zip(rows, ("114.0", "112.0"), strict=True)}
    assert len(ends) == 1


def test_the_mark_of_a_reason_stands_behind_its_last_word(tmp_path: Path) -> None:
    lines = printed(test_formats.partial(tmp_path).table, 60)
    first = next(at for at, line in enumerate(lines) if line.startswith("group_v2"))
    assert lines[first].rstrip().endswith("failed: out of") and lines[first + 1].rstrip().endswith("memory … b"), lines


def test_brackets_are_text(tmp_path: Path) -> None:
    for cell in fakes.cells_of():
        fakes.write_run(tmp_path, cell)
    assert "a [b]" in printed(fakes.subject(tmp_path, title="a [b]").table, 80)[0]
