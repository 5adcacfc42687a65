"""The report block: what it accepts, what it fills in, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.errors import UserError
from reports.layout import parse_layout
from sweeps.definition import load_sweep, sweep_names

AXES = {"scheme": ["a", "b"], "guidance": ["1", "3"]}
BLOCK: dict[str, Any] = {"rows": "scheme", "spread": "guidance", "columns": ["fd_efflite0"]}

OWN = {"id": "x", "text": "t", "source": "us", "kind": "best", "metric": "fid", "axis": "scheme", "label": "a"}


def test_labels_are_written_as_yaml_has_them() -> None:
    axes = {"flip": ["true", "false"], "rate": ["0.0001"]}
    own = {**OWN, "axis": "rate", "label": 1e-4, "where": {"flip": True}}
    block = {"rows": ["flip", "rate"], "columns": ["fid"], "baseline": {"flip": False}, "claims": [own]}
    layout = parse_layout(block, axes)
    assert layout.baseline == {"flip": "false"}
    assert (layout.claims[0].label, layout.claims[0].where) == ("0.0001", {"flip": ("true",)})


def test_defaults_come_from_the_metric_registry() -> None:
    column = parse_layout(BLOCK, AXES).columns[0]
    assert (column.label, column.better) == ("FD-EffLite0", "lower")
    assert column.text(123.456) == "123.5"


def test_a_stand_in_gets_the_published_column_beside_it_unless_told_otherwise() -> None:
    axes = {"hybrid_scheme": ["serial_v2"]}
    block = {"rows": "hybrid_scheme", "columns": ["fd_efflite0"], "reference": "maskmamba.table3"}
    layout = parse_layout(block, axes)
    assert layout.columns[0].paper == "fid"
    assert [claim.id for claim in layout.claims] == ["serial_v2_best", "serial_v2_beats_serial_v1"]
    block["columns"] = [{"metric": "fd_efflite0", "paper": ""}]
    assert parse_layout(block, axes).columns[0].paper == ""


def test_claims_can_be_named_across_tables_or_written_out() -> None:
    own = {"id": "x", "text": "t", "source": "us", "kind": "best", "metric": "fid", "axis": "scheme", "label": "a"}
    layout = parse_layout({**BLOCK, "claims": ["maskmamba.table5.middle_best", own]}, AXES)
    assert [claim.id for claim in layout.claims] == ["middle_best", "x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spread": ""}, "guidance no place"),
        ({"rows": "shceme"}, "Did you mean 'scheme'"),
        ({"colums": []}, "Did you mean 'columns'"),
        ({"columns": ["fd_eflite0"]}, "Did you mean 'fd_efflite0'"),
        ({"columns": [{"metric": "fd_efflite0", "bset": "lower"}]}, "bset"),
        ({"columns": [{"metric": "fd_efflite0", "best": "smaller"}]}, "smaller"),
        ({"columns": [{"metric": "fd_efflite0", "format": "huge"}]}, "not a number format"),
        ({"columns": [{"metric": "fd_efflite0", "label": "FID"}]}, "must not be called 'FID'"),
        ({"columns": [{"metric": "fd_efflite0", "paper": "fid"}]}, "column of the reference"),
        ({"baseline": {"scheme": "c"}}, "label of scheme"),
        ({"baseline": {"sheme": "a"}}, "axis in report.baseline"),
        ({"figure": [{"kind": "pie", "y": "fid"}]}, "kind of figure"),
        ({"figure": [{"kind": "scatter", "y": "fid"}]}, "needs x"),
        ({"figure": [{"kind": "lines", "x": "parameters", "y": "fid"}]}, "axis in report.figure"),
        ({"claims": ["best"]}, "names no table"),
        ({"claims": [{**OWN, "metric": "fidd"}]}, "metric in report.claims: 'fidd'"),
        ({"claims": [{**OWN, "label": "c"}]}, "label of scheme in report.claims: 'c'"),
        ({"claims": [{**OWN, "where": {"sheme": "a"}}]}, "axis in report.claims: 'sheme'"),
        ({"claims": "best"}, "must be a list"),
        ({"footnotes": "A sentence."}, "must be a list"),
        ({"columns": "fd_efflite0"}, "must be a list"),
        ({"columns": [{"metric": "fd_efflite0", "scale": "1e3 times"}]}, "must be a number"),
        ({"columns": [{"metric": 5}]}, "metric in report.columns: '5'"),
        ({"samples": "many"}, "must be a number of images"),
        ({"stages": -1}, "must be a number of steps of the training"),
        ({"stages": [0.5, 3]}, "must be shares of the training"),
        ({"figure": [{"kind": "bars", "y": "fd_eflite0"}]}, "Did you mean 'fd_efflite0'"),
        ({"figure": [{"kind": "pareto", "x": "second", "y": "fid"}]}, "metric in report.figure: 'second'"),
        ({"reference": "maskmamba.table33"}, "Did you mean"),
    ],
)
def test_mistakes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_layout({**BLOCK, **change}, AXES)


@pytest.mark.parametrize("name", sweep_names())
def test_every_named_sweep_has_a_layout_and_its_reference_rows_match(name: str) -> None:
    sweep = load_sweep(name)
    layout = parse_layout(sweep.report, {axis.name: axis.labels for axis in sweep.axes})
    assert layout.columns
    if layout.reference and layout.reference.rows:
        labels = [{axis.name: label for axis in sweep.axes} for label in sweep.axes[0].labels]
        assert any(row.match.keys() & {axis.name for axis in sweep.axes} for row in layout.reference.rows), labels
