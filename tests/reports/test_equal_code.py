"""Code versions that a reproduced cell shows to be the same are one to the guard; others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.equal_code import Evidence, alike, find_evidence
from reports.facts import facts
from tests.reports import fakes

OLD, NEW = "1" * 40, "2" * 40


def made_by(commit: str) -> dict[str, Any]:
    parts = ("run__provenance__git_commit", "evaluation__provenance__git_commit")
    return {**dict.fromkeys(parts, commit), "config__generator__name": "maskmamba"}


def mixed(root: Path, again: float = 100.0, **changes: Any):
    """Half of the rows made by another version, which ran one cell of the first again, and got `again`."""
    cells = fakes.cells_of()
    for number, cell in enumerate(cells):
        fakes.write_run(root, cell, 100.0, **made_by(OLD if number < 2 else NEW))
    fakes.write_run(root / "reproduced/some", cells[0], again, **{**made_by(NEW), **changes})
    return fakes.subject(root, cells)


def test_versions_with_the_same_numbers_are_one(tmp_path: Path) -> None:
    subject = mixed(tmp_path)
    run_id = subject.records[0].run_id
    assert find_evidence(tmp_path) == [Evidence("maskmamba", (OLD[:10], NEW[:10]), run_id)]
    assert not [flag for flag in subject.flags if "code" in flag.fact]
    (note,) = [note for _, note in subject.table.notes if "Code versions" in note]
    assert OLD[:10] in note and NEW[:10] in note and run_id in note and "maskmamba" in note


@pytest.mark.parametrize(
    ("again", "changes"),
    [
        (100.000001, {}),
        (100.0, {"run__metrics": {"val/loss": 3.4000001}}),
        (100.0, {"evaluation__provenance__git_commit": OLD}),  # only trained by the other
        (100.0, {"run__metrics": {}, "evaluation__metrics": {"fd_dinov2": 9.0}}),  # nothing in common
    ],
)
def test_others_stay_flagged(tmp_path: Path, again: float, changes: dict[str, Any]) -> None:
    subject = mixed(tmp_path, again, **changes)
    assert {flag.fact for flag in subject.flags} == {"code version"}
    assert not any("Code versions" in note for _, note in subject.table.notes)


def test_an_evaluation_by_a_version_that_is_the_same_is_no_difference(tmp_path: Path) -> None:
    subject = mixed(tmp_path)
    path = tmp_path / "runs" / subject.records[1].run_id / "evaluations" / subject.records[1].eval_id / "result.json"
    result = json.loads(path.read_text())
    result["provenance"]["git_commit"] = NEW
    path.write_text(json.dumps(result))
    again = fakes.subject(tmp_path, fakes.cells_of())
    assert facts(again.records[1])["code version of the evaluation"] == NEW[:10]
    assert not [flag for flag in again.flags if "code" in flag.fact]


def test_equality_goes_on_and_stays_within_a_generator() -> None:
    known = [("aim", ("a", "b")), ("aim", ("c", "b")), ("dimba", ("a", "d"))]
    names = alike(Evidence(generator, codes, "x") for generator, codes in known)
    assert {names["aim", code] for code in "abc"} == {frozenset("abc")}
    assert names["dimba", "a"] == names["dimba", "d"] == frozenset("ad") and ("dimba", "b") not in names


def test_what_is_the_same_for_one_generator_sets_no_other_apart(tmp_path: Path) -> None:
    """One version made all rows; that another one is known to be the same for some of them changes nothing."""
    cells = fakes.cells_of()
    for number, cell in enumerate(cells):
        generator = {"config__generator__name": "uvit" if number < 2 else "mmamba"}
        fakes.write_run(tmp_path, cell, 100.0, **{**made_by(OLD), **generator})
    fakes.write_run(tmp_path / "reproduced/some", cells[3], 100.0, **{**made_by(NEW), **generator})
    assert find_evidence(tmp_path)
    subject = fakes.subject(tmp_path, cells)
    assert not [flag for flag in subject.flags if "code" in flag.fact]
    assert not any("Code versions" in note for _, note in subject.table.notes)


def test_rounding_and_metrics_that_came_later_are_no_difference(tmp_path: Path) -> None:
    subject = mixed(tmp_path, 100.0, run__metrics={"val/loss": 3.4 * (1 + 1e-14), "val/new": 1.0})
    assert len(find_evidence(tmp_path)) == 1 and not [flag for flag in subject.flags if "code" in flag.fact]


def test_what_cannot_be_read_is_no_evidence(tmp_path: Path) -> None:
    subject = mixed(tmp_path)
    (tmp_path / "reproduced/some/runs" / subject.records[0].run_id / "result.json").write_text("{")
    assert find_evidence(tmp_path) == []
    assert find_evidence(tmp_path / "nowhere") == []
