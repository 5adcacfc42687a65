"""The report block: what it accepts, what it fills in, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import reports
from experiments.errors import UserError
from reports.layout import parse_layout
from sweeps.definition import load_sweep, sweep_names

AXES = {"scheme": ["a", "b"], "guidance": ["1", "3"]}
BLOCK: dict[str, Any] = {"rows": "scheme", "spread": "guidance", "columns": ["fd_efflite0"]}

OWN = {"id": "x", "text": "t", "source": "us", "kind": "best", "metric": "fid", "axis": "scheme", "label": "a"}

CORRELATION = {"id": "c", "text": "t", "source": "us", "kind": "correlation", "metric": "fid", "x": "parameters"} | {
    "at_most": 0
}
SIMILAR = {"id": "s", "text": "t", "source": "us", "kind": "similar", "metric": "fid"} | {
    "left": {"scheme": "a"},
    "right": {"scheme": "b"},
    "tolerance": 0.05,
}

ROW = {"id": "r", "name": "R", "match": {"scheme": "a"}, "values": {"fid": 5.7}}
TABLE = {"citation": "us", "where": "Table 1", "title": "T", "source": "s", "columns": {"fid": {"label": "FID"}}} | {
    "rows": [ROW]
}


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


def test_a_published_table_can_be_written_out_as_the_page_shows() -> None:
    page = Path(reports.__file__).with_name("README.md").read_text()
    (example,) = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "Doe" in block
    )
    layout = parse_layout(example["report"], {"hybrid_scheme": ["serial_v1", "serial_v2"]})
    assert layout.reference is not None and layout.reference.citation == "Doe: Our last paper, 2025"
    assert [column.paper for column in layout.columns] == ["fid", "parameters"]
    beside = layout.reference.row_for({"hybrid_scheme": "serial_v2"})
    assert beside is not None and beside.values == {"fid": 5.7, "parameters": None}


def test_claims_can_be_named_across_tables_or_written_out() -> None:
    own = {"id": "x", "text": "t", "source": "us", "kind": "best", "metric": "fid", "axis": "scheme", "label": "a"}
    layout = parse_layout({**BLOCK, "claims": ["maskmamba.table5.middle_best", own]}, AXES)
    assert [claim.id for claim in layout.claims] == ["middle_best", "x"]


def test_well_formed_blocks_of_these_kinds_pass() -> None:
    figure = {"kind": "lines", "x": "guidance", "y": "fid", "log": "xy"}
    layout = parse_layout({**BLOCK, "claims": [CORRELATION, SIMILAR], "figure": [figure]}, AXES)
    assert [claim.id for claim in layout.claims] == ["c", "s"] and layout.figures[0].log == "xy"


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
        ({"columns": [{"metric": "fd_efflite0", "paper": "fid"}]}, "paper=fid of fd_efflite0, but .* names no table"),
        (
            {"columns": [{"metric": "fd_efflite0", "paper": "fidd"}], "reference": "maskmamba.table3"},
            "column of the reference 'fidd'",
        ),
        ({"baseline": {"scheme": "c"}}, "label of scheme"),
        ({"baseline": {"sheme": "a"}}, "axis in report.baseline"),
        ({"figure": [{"kind": "pie", "y": "fid"}]}, "kind of figure"),
        ({"figure": [{"kind": "scatter", "y": "fid"}]}, "needs x"),
        ({"figure": [{"kind": "lines", "x": "parameters", "y": "fid"}]}, "axis in report.figure"),
        ({"figure": [{"kind": "bars", "y": "fid", "x": "fid"}]}, "bars has no x; leave it out, or choose lines or s"),
        ({"figure": [{"kind": "bars", "y": "fid", "colour": "scheme"}]}, "no colour; .* choose scatter or pareto"),
        ({"figure": [{"kind": "curves", "y": "val/loss", "panels": "scheme"}]}, "curves has no panels"),
        ({"figure": [{"kind": "lines", "x": "guidance", "y": "fid", "series": "scheme"}]}, "'series'"),
        ({"figure": [{"kind": "pareto", "x": "fid", "y": "fid", "fit": True}]}, "choose scatter"),
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
        ({"reference": ["maskmamba.table3"]}, "Unknown reference"),
        ({"reference": {**TABLE, "citation": ""} | {"cite": "x"}}, "Unknown key in report.reference: 'cite'"),
        ({"reference": {key: TABLE[key] for key in TABLE if key != "citation"}}, "report.reference lacks citation"),
        ({"reference": {**TABLE, "columns": {"fid": "FID"}}}, "columns.fid must be a mapping, not 'FID'"),
        ({"reference": {**TABLE, "columns": {"fid": {"label": "FID", "best": "lower"}}}}, "'best'.*better"),
        ({"reference": {**TABLE, "columns": {"fid": {"label": "FID", "better": "less"}}}}, "value of better.* 'less'"),
        ({"reference": {**TABLE, "columns": {"fid": {"label": "FID", "scale": "k"}}}}, "scale='k' must be a number"),
        ({"reference": {**TABLE, "rows": {"a": 1}}}, "rows must be a list"),
        ({"reference": {**TABLE, "rows": [{**ROW, "values": 5}]}}, "values must be a mapping"),
        (
            {"reference": {**TABLE, "rows": [{**ROW, "match": {"scheme": "c"}}]}},
            "scheme in report.reference, row r: 'c'",
        ),
        ({"reference": {**TABLE, "claims": [{**OWN, "label": "c"}]}}, "label of scheme in report.claims: 'c'"),
        ({"rows": 5}, "must be an axis or a list of axes"),
        ({"baseline": "scheme a"}, "report.baseline must be a mapping"),
        ({"claims": [{**OWN, "where": "z"}]}, "where must be a mapping"),
        ({"claims": [{**OWN, "kind": "order", "order": "a b"}]}, "must be a list of rows"),
        ({"claims": [{**OWN, "kind": "order", "order": ["a", "b"]}]}, "order must be a mapping"),
        ({"claims": [{**CORRELATION, "x": "paramters"}]}, "Did you mean 'parameters'"),
        ({"claims": [{**CORRELATION, "at_most": "-0.5x"}]}, "at_most='-0.5x' must be a number"),
        ({"claims": [{**CORRELATION, "log": "x"}]}, "log='x' must be true or false"),
        ({"claims": [{**SIMILAR, "tolerance": "5%"}]}, "tolerance='5%' must be a number, such as 0.05"),
        ({"claims": [{**SIMILAR, "tolerance": True}]}, "tolerance=True must be a number"),
        ({"figure": [{"kind": "lines", "x": "scheme", "y": "fid", "log": "x"}]}, "label 'a' is no number above 0"),
        ({"figure": [{"kind": "bars", "y": "fid", "where": {"scheme": "z"}}]}, "label of scheme in report.figure: 'z'"),
        ({"figure": [{"kind": "bars", "y": "fid", "where": {"scheme": []}}]}, "where names no label of scheme"),
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
