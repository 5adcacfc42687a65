"""Losses of validations on other tasks are not held against each other, also where the sweep varies the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from reports.claims import judge
from reports.reference import parse_claim
from reports.subject import Subject
from tests.reports import fakes

AXES = {"ratio": ("mage", "cosine"), "width": ("a", "b")}
LOSSES = {("mage", "a"): 5.4, ("mage", "b"): 5.2, ("cosine", "a"): 4.9, ("cosine", "b"): 4.8}
REPORT: dict[str, Any] = {
    "rows": list(AXES),
    "columns": ["val/loss", "val/accuracy", "fd_efflite0"],
    "samples": 0,
}
MASKED = {"name": "masked", "label_smoothing": 0.1}


def varied(root: Path, labels: Sequence[tuple[str, str]], objective: str = "", **changes: Any) -> Subject:
    """Three seeds a row; of `objective` in the place of the masked one, the ratios are names of objectives."""
    cells = [fakes.cell_of(dict(zip(AXES, pair, strict=True)), seed) for pair in labels for seed in (0, 1, 2)]
    for cell in cells:
        ratio, width = cell.labels.values()
        loss = LOSSES[ratio, width] + 0.01 * cell.seed
        kind = {**MASKED, "mask_ratio": ratio} if ratio == "mage" or not objective else {"name": objective}
        fakes.write_run(
            root,
            cell,
            20 * loss,
            run__metrics={"val/loss": loss, "val/accuracy": loss / 10},
            config__objective=kind,
            config__generator={"name": "maskmamba"},
        )
    return fakes.subject(
        root, cells, **{"report": REPORT, "axes": AXES, "declared": ["objective.mask_ratio"], **changes}
    )


def marks(subject: Subject) -> list[list[str]]:
    """Rank and doubt of the measured entries, by column."""
    lines = [[e.rank + e.doubt for e in line.entries if e.kind == "measured"] for line in subject.table.rows]
    return [list(column) for column in zip(*lines, strict=True)]


def test_rows_of_another_task_have_no_place_where_it_is_varied_on_purpose(tmp_path: Path) -> None:
    subject = varied(tmp_path, list(LOSSES)[:3])
    assert subject.flags == [] and not any(letter for letter, _ in subject.table.notes)
    assert marks(subject) == [["", "best", "?"], ["best", "", "?"], ["", "second", "best"]]
    notes = [text for _, text in subject.table.notes]
    assert any(
        text.startswith("Val loss and Val accuracy: only rows with the same objective.mask_ratio") for text in notes
    )
    assert any("? noise unknown or not comparable" in text for text in notes)


def test_rows_of_the_same_task_are_ranked(tmp_path: Path) -> None:
    report = {**REPORT, "group": "ratio", "rows": "width"}
    assert marks(varied(tmp_path, list(LOSSES), report=report))[0] == ["", "best"] * 2


def test_a_task_that_nobody_declared_is_another_one_too(tmp_path: Path) -> None:
    subject = varied(tmp_path, list(LOSSES)[:3], declared=[])
    assert {flag.fact for flag in subject.flags} == {"objective.mask_ratio"}
    assert marks(subject) == [["", "best", "?"], ["best", "", "?"], ["", "second", "best"]]


def test_another_objective_is_another_task_by_its_name_alone(tmp_path: Path) -> None:
    rows = varied(tmp_path, list(LOSSES)[:3], "diffusion", declared=["objective.name"]).rows
    assert [dict(row.task) for row in rows] == [
        {},
        {},
        {"objective.name": "objective.name is diffusion, elsewhere masked"},
    ]


@pytest.mark.parametrize(("metric", "judgement"), [("val/loss", "undecided"), ("fd_efflite0", "supported")])
def test_no_claim_is_decided_between_tasks(tmp_path: Path, metric: str, judgement: str) -> None:
    claim = {"id": "c", "text": "t", "source": "s", "kind": "order", "metric": metric}
    claim |= {"order": [{"ratio": "cosine"}, {"ratio": "mage"}]}
    found = judge(parse_claim(claim, "here"), varied(tmp_path, list(LOSSES)).rows)
    assert found.judgement == judgement and (found.tau is None) == (judgement == "undecided")
    assert ("not comparable (objective.mask_ratio is" in found.evidence[0]) == (judgement == "undecided")
