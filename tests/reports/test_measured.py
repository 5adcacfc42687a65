"""Tables show FID and its kin where they were measured, and what stands in for them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reports.figures import draw
from reports.formats import to_data
from tests.reports import fakes

INCEPTION = {"extractor": "inception-v3-2015-12-05", "extractor_sha256": "1" * 64}
OURS = ["fd_efflite0", "kid_efflite0"]


def _sweep(root: Path, lacking: tuple[str, ...] = (), **more: float) -> Any:
    for cell in fakes.cells_of():
        folder = fakes.FD[cell.labels["hybrid_scheme"]]
        found = (
            {} if cell.labels["hybrid_scheme"] in lacking else {f"evaluation__metrics__{k}": v for k, v in more.items()}
        )
        if found and "fid" in more:
            found |= {"evaluation__metrics__fid": folder / 10, "evaluation__protocol__inception": INCEPTION}
        fakes.write_run(root, cell, folder, **found)
    return fakes.subject(root)


def _shown(subject: Any) -> list[str]:
    return [column.metric for column in subject.layout.columns]


def test_without_weights_the_table_is_the_sweeps_own(tmp_path: Path) -> None:
    assert _shown(_sweep(tmp_path)) == ["parameters", *OURS, "seconds_per_image"]


@pytest.mark.parametrize(("reference", "shown"), [("maskmamba.table3", True), ("aim.table2", False)])
def test_is_std_stands_where_the_paper_prints_it(tmp_path: Path, reference: str, shown: bool) -> None:
    measured = {"fid": 5.0, "is": 250.0, "is_std": 3.0}
    for cell in fakes.cells_of():
        found = {f"evaluation__metrics__{name}": value for name, value in measured.items()}
        fakes.write_run(tmp_path, cell, 100.0, **found, evaluation__protocol__inception=INCEPTION)
    subject = fakes.subject(tmp_path, report={**fakes.REPORT, "reference": reference})
    assert ("is_std" in _shown(subject)) is shown and "is" in _shown(subject)


def test_data_tell_the_spread_over_splits_from_the_one_over_seeds(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1))
    for cell in cells:
        measured = {"fid": 5.0, "is": 250.0 + 4 * cell.seed, "is_std": 3.0}
        found = {f"evaluation__metrics__{name}": value for name, value in measured.items()}
        fakes.write_run(tmp_path, cell, 100.0, **found, evaluation__protocol__inception=INCEPTION)
    first = to_data(fakes.subject(tmp_path, cells).table)[0]
    assert (first["is_std"], first["is_std_n"], first["fid_std"]) == (3.0, 2, 0.0)
    assert first["is_std_over_seeds"] == pytest.approx(8**0.5)


def test_fid_takes_the_place_of_its_stand_in_in_tables_and_figures(tmp_path: Path) -> None:
    measured = {"fid": 0.0, "is": 250.0, "kid": 0.01, "precision": 0.8, "recall": 0.5}
    subject = _sweep(tmp_path, **measured)
    assert _shown(subject) == ["parameters", "fid", "is", "precision", "recall", "kid", "seconds_per_image"]
    fid = subject.layout.columns[1]
    assert (fid.label, fid.better, fid.paper) == ("FID", "lower", "fid")
    assert [figure.y for figure in subject.layout.figures] == ["fid", "train/loss", "fid"]
    assert all(draw(figure, subject.rows) for figure in subject.layout.figures)
    table = subject.table
    notes = " ".join(text for _, text in table.notes)
    assert "features of FID, IS, KID, Precision, Recall: inception-v3-2015-12-05 (11111111)" in notes
    assert "EffLite0" not in notes and "so FD is not FID" not in notes
    assert any("11.20" in entry.text for row in table.rows for entry in row.entries)


def test_where_only_some_rows_have_it_both_are_shown(tmp_path: Path) -> None:
    subject = _sweep(tmp_path, ("group_v2",), fid=0.0)
    assert _shown(subject) == ["parameters", "fid", *OURS, "seconds_per_image"]
    assert [column.paper for column in subject.layout.columns[1:3]] == ["fid", ""]
    assert [figure.y for figure in subject.layout.figures] == ["fd_efflite0", "train/loss", "fd_efflite0"]
    notes = " ".join(text for _, text in subject.table.notes)
    assert "features of FD-EffLite0, KID-EffLite0: efficientnet-lite0" in notes


@pytest.mark.parametrize("name", ["clip_score", "fd_dinov2", "attribute_binding"])
def test_other_qualities_that_need_weights_have_columns_too(tmp_path: Path, name: str) -> None:
    assert _shown(_sweep(tmp_path, **{name: 0.3})) == [
        "parameters",
        "fd_efflite0",
        name,
        "kid_efflite0",
        "seconds_per_image",
    ]
