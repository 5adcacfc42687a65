"""The table of sweeps in README.md: every sweep, its demo cells, and the planned hours of the larger scales."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps.definition import load_sweep, sweep_names
from sweeps.planner import count_cells, plan
from sweeps.preview import preview

PROJECT = Path(__file__).parents[2]
ROW = re.compile(
    r"^\| [^|]+ \| [^|]+ \| `(?P<sweep>[a-z-]+)` \| (?P<demo>[^|]+) \| (?P<small>[^|]+) \| (?P<paper>[^|]+) \|$", re.M
)
"""| system | table or figure | sweep | demo cells | hours at scale small | hours at scale paper |"""
ROWS = {found["sweep"]: found for found in ROW.finditer((PROJECT / "README.md").read_text())}


def hours(value: float) -> str:
    """As the table prints them: two digits that count, whole from ten on."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def test_every_sweep_stands_in_the_table() -> None:
    assert sorted(ROWS) == sorted(sweep_names())
    for name, row in ROWS.items():
        assert (
            int(re.findall(r"\d+", row["demo"])[0]) == count_cells(load_sweep(name), "demo") or "search" in row["demo"]
        )


SAMPLE = sorted(ROWS)[2::6]
"""Counting the operations of published sizes takes seconds a sweep: some stand for all."""


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", SAMPLE)
def test_hours_are_those_of_the_plan(name: str, scale: str, tmp_path: Path) -> None:
    cost = preview(plan(name, scale, root=tmp_path))["cost"]
    assert ROWS[name][scale] == (hours(cost["device_hours"]) if cost else "–")
