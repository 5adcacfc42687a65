"""Records and their aggregation: seeds are averaged, nothing else is, and what is missing says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.aggregate import rows_of, select, standard_error
from reports.records import collect
from tests.reports import fakes

SERIAL = {"hybrid_scheme": "serial_v2"}


def value(root: Path, cells: list, metric: str = "fd_efflite0"):
    return rows_of(collect(cells, root))[0].value(metric)


def test_seeds_become_mean_std_and_n(tmp_path: Path) -> None:
    cells = [fakes.cell_of(SERIAL, seed) for seed in (0, 1, 2)]
    for cell, fd in zip(cells, (100.0, 110.0, 120.0), strict=True):
        fakes.write_run(tmp_path, cell, fd)
    found = value(tmp_path, cells)
    assert (found.mean, found.std, found.n, found.note) == (110.0, 10.0, 3, "")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "not run"),
        ({"state": "stopped", "step": 172}, "stopped 43 %"),
        ({"state": "running", "step": 172}, "interrupted 43 %"),  # nobody owns it
        ({"state": "failed", "reason": "out of memory", "cause": "oom"}, "failed: out of memory"),
    ],
)
def test_what_is_missing_says_why(tmp_path: Path, status: dict | None, reason: str) -> None:
    cell = fakes.cell_of(SERIAL)
    if status:
        fakes.write_status(tmp_path, cell, **status)
    record = collect([cell], tmp_path)[0]
    assert record.reason == reason and not record.metrics
    assert value(tmp_path, [cell]).note == reason


def test_some_seeds_missing_is_said_and_not_averaged_over_silently(tmp_path: Path) -> None:
    cells = [fakes.cell_of(SERIAL, seed) for seed in (0, 1, 2)]
    fakes.write_run(tmp_path, cells[0], 100.0)
    fakes.write_status(tmp_path, cells[1], state="failed", reason="out of memory", cause="oom")
    found = value(tmp_path, cells)
    assert found.note == "n=1/3 seeds" and found.std is None
    assert found.reasons == ("failed: out of memory", "not run")


def test_what_came_out_as_no_number_is_not_called_unmeasured(tmp_path: Path) -> None:
    cells = fakes.cells_of((0, 1, 2))
    for cell in cells:
        scheme = cell.labels["hybrid_scheme"]
        lost = {"group_v1": ["fd_efflite0"], "serial_v2": ["fd_efflite0"] if cell.seed == 1 else []}.get(scheme, [])
        kept = {"kid_efflite0": 0.05} | ({} if lost else {"fd_efflite0": 100.0 + cell.seed})
        fakes.write_run(tmp_path, cell, evaluation__metrics=kept, evaluation__not_finite=lost)
    subject = fakes.subject(tmp_path, cells)
    values = [row.value("fd_efflite0") for row in subject.rows]
    assert (values[0].note, values[3].note, values[3].reasons) == ("not finite", "n=2/3 seeds", ("not finite",))
    assert subject.table.rows[0].entries[2].text == "not finite"
    assert subject.rows[0].value("memorisation_rate").note == "not measured"


def test_a_training_without_its_evaluation_is_no_measurement(tmp_path: Path) -> None:
    cell = fakes.cell_of(SERIAL)
    folder = fakes.write_run(tmp_path, cell)
    (folder / "evaluations" / cell.eval_id / "result.json").unlink()
    assert collect([cell], tmp_path)[0].reason == "trained, not evaluated"


def test_a_damaged_result_is_no_measurement(tmp_path: Path) -> None:
    cell = fakes.cell_of(SERIAL)
    folder = fakes.write_run(tmp_path, cell)
    (folder / "evaluations" / cell.eval_id / "result.json").write_text('{"metrics": {"fd_')
    assert "damaged" in collect([cell], tmp_path)[0].reason


def test_rows_keep_the_order_of_the_sweep_and_different_labels_are_never_merged(tmp_path: Path) -> None:
    rows = fakes.finished(tmp_path, (0, 1)).rows
    assert [row.labels["hybrid_scheme"] for row in rows] == list(fakes.SCHEMES)
    assert all(row.value("fd_efflite0").n == 2 for row in rows)
    assert select(rows, SERIAL) == [rows[3]]


def test_reported_noise_prefers_the_bootstrap_interval(tmp_path: Path) -> None:
    cell = fakes.cell_of(SERIAL)
    fakes.write_run(tmp_path, cell, evaluation__metrics__fd_efflite0_low=110, evaluation__metrics__fd_efflite0_high=130)
    record = collect([cell], tmp_path)[0]
    assert standard_error(record, "fd_efflite0") == (pytest.approx(20 / 3.92), "bootstrap interval")
    assert standard_error(record, "kid_efflite0") == (0.002, "spread over subsets")
    assert standard_error(record, "seconds_per_image") == (None, "")


def test_curves_are_read_from_the_metrics_file(tmp_path: Path) -> None:
    cell = fakes.cell_of(SERIAL)
    fakes.write_run(tmp_path, cell)
    curve = collect([cell], tmp_path)[0].curve("train/loss")
    assert [step for step, _ in curve] == list(range(20, 401, 20)) and curve[0][1] > curve[-1][1]
