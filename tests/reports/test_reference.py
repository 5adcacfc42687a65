"""The papers' numbers: every file is well-formed, every value has a source, and malformed files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.errors import UserError
from reports.quantities import quantity
from reports.reference import load_reference, load_system, load_table, systems

TABLES = [table for system in systems() for table in load_system(system).values()]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.key)
def test_every_value_has_a_source(table) -> None:
    for row in table.rows:
        assert row.values.keys() == table.columns.keys()
        for name, value in row.values.items():
            assert (value is None) == (name not in row.sources)
            assert value is None or row.sources[name]
    assert all(claim.source and claim.text for claim in table.claims)


@pytest.mark.parametrize(
    ("key", "row", "column", "value"),
    [
        ("aim.table2", "b", "fid", 3.52),
        ("aim.table2", "llamagen_3b_384", "recall", 0.58),
        ("aim.table3", "l_per_layer", "fid", 2.89),
        ("aim.table4", "plain", "fid", 7.72),
        ("dimba.table1", "dimba_g", "gpu_days", 1980),
        ("dimba.table2", "dimba_g", "complex", 0.4312),
        ("mmamba.speed", "mmamba", "seconds_ssm", 2.33e-4),
        ("maskmamba.table2", "maskmamba_xl", "fid", 5.79),
        ("maskmamba.table3", "serial_v2", "fid", None),
    ],
)
def test_published_numbers(key: str, row: str, column: str, value: float | None) -> None:
    found = next(item for item in load_table(key).rows if item.id == row)
    assert found.values[column] == value


def test_a_number_derived_from_others_is_marked() -> None:
    row = next(row for row in load_table("maskmamba.table2").rows if row.id == "transformer_xl")
    assert row.approximate == ("fid",) and row.values["fid"] == pytest.approx(5.79 + 0.17)


def test_the_memory_that_the_paper_gives_bears_out_its_ratio() -> None:
    bound = load_table("maskmamba.figure7").claim("memory_at_batch_6").at_least
    assert bound is not None and 1.65 < bound <= 63 / 38


def test_the_row_that_fits_best_is_found_and_an_ambiguous_one_is_not() -> None:
    table = load_table("aim.table3")
    assert table.row_for({"size": "B", "adaln": "single", "seed": "0"}).id == "b_single"
    assert table.row_for({"adaln": "single"}) is None  # B or L?
    assert table.row_for({"unrelated": "x"}) is None


def test_unknown_table_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match="Did you mean 'maskmamba.table3'"):
        load_table("maskmamba.tabel3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [{"id": "a", "name": "A", "values": {"fdi": 1.0}}]}, "fdi"),
        ({"rows": [{"id": "a", "name": "A", "values": {"fid": "low"}}]}, "must be a number"),
        ({"rows": [{"id": "a", "name": "A", "values": {}, "vlaues": {}}]}, "Did you mean 'values'"),
        ({"rows": [{"id": "a", "name": "A", "values": {}}] * 2}, "same id"),
        ({"claims": [{"id": "c", "text": "t", "source": "s", "kind": "bset", "metric": "fid"}]}, "bset"),
        ({"claims": [{"id": "c", "text": "t", "source": "s", "kind": "best", "metric": "fid"}]}, "lacks axis, label"),
        (
            {
                "claims": [
                    {"id": "c", "text": "t", "source": "s", "kind": "order", "metric": "fid", "order": [{"a": 1}]}
                ]
            },
            "at least two",
        ),
        (
            {
                "claims": [
                    {"id": "c", "text": "t", "source": "s", "kind": "ratio", "metric": "f", "left": {}, "right": {}}
                ]
            },
            "at_least, at_most",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    table = {"where": "T", "title": "t", "source": "paper", "columns": {"fid": {"label": "FID"}}, "rows": [], **change}
    raw = {"citation": "c", "sources": {"paper": "p"}, "tables": {"t": table}}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=message):
        load_reference(path)


@pytest.mark.parametrize("key,labels", [("dimba.table1", {"model": "pixart"}), ("mmamba.speed", {"model": "uvit"})])
def test_numbers_stand_beside_rows_of_the_published_size_alone(key: str, labels: dict[str, str]) -> None:
    table = load_table(key)
    sizes = {"dimba.table1": ("L", "tiny"), "mmamba.speed": ("published", "eighth")}[key]
    assert table.row_for({**labels, "size": sizes[0]}) is not None
    assert table.row_for({**labels, "size": sizes[1]}) is None


def test_times_of_m_mamba_are_printed_in_the_unit_of_the_columns_beside_them() -> None:
    columns = load_table("mmamba.speed").columns
    for name in columns.keys() - {"parameters"}:
        beside = quantity("seconds_kernel" if name == "seconds_ssm" else name)
        assert "(ms)" in columns[name].label and columns[name].scale == beside.scale
