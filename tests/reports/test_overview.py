"""One page for all sweeps: what was begun is on it, with its state, its claims and a link that leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from experiments.errors import UserError
from reports import commands
from reports.entry import NO_PAPER, by_paper, entry_of
from reports.overview import build_overview, find_subjects, render_overview
from reports.subject import load_subject
from sweeps.definition import load_sweep
from sweeps.planner import plan
from sweeps.registry import register
from sweeps.views import list_sweeps
from tests.conftest import Ablate
from tests.reports import fakes
from tests.reports.test_formats import spread


def test_nothing_begun_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ablate run NAME"):
        build_overview(tmp_path)


def test_every_begun_sweep_is_there_and_gone_ones_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(plan("maskmamba-mask-ratio", "demo", ["seeds=0,1"], tmp_path))
    register(plan("maskmamba-hybrid-schemes", "demo", ["hybrid_scheme=serial_v1"], tmp_path))
    lost = tmp_path / "sweeps" / "old-demo"
    lost.mkdir()
    (lost / "plan.json").write_text(json.dumps({"sweep": "old", "scale": "demo", "words": [], "cells": []}))
    subjects, gone = find_subjects(tmp_path)
    cells = {subject.name: len(subject.records) for subject in subjects}
    assert cells["maskmamba-hybrid-schemes"] > 1, "the last request picked one row; the page shows the sweep"
    assert {record.seed for s in subjects if s.name == "maskmamba-mask-ratio" for record in s.records} == {0, 1}
    assert len(gone) == 1 and gone[0].startswith("old-demo: no sweep is called old")
    page = commands.overview(tmp_path)
    text = page.read_text()
    assert page == tmp_path / "reports" / "index.html" and "no sweep is called old" in text
    assert "not readable: old-demo: no sweep is called old" in capsys.readouterr().out
    assert {path.name for path in page.parent.glob("maskmamba*")} == {
        "maskmamba-mask-ratio-demo-seeds=0,1",
        "maskmamba-hybrid-schemes-demo",
    }, "as ablate report calls them"
    links = [link for link in re.findall(r'href="([^"]+)"', text) if not link.startswith("data:")]
    assert len(links) == 2 and all((page.parent / link).is_file() for link in links)
    capsys.readouterr()
    commands.overview(tmp_path, as_json=True)
    assert {entry["sweep"] for entry in json.loads(capsys.readouterr().out)["sweeps"]} == set(cells)


def test_a_sweep_of_ones_own_is_found_after_its_file_has_moved(tmp_path: Path) -> None:
    definition = load_sweep("aim-adaln").path.read_text().replace("name: aim-adaln", "name: mine")
    file, root = tmp_path / "mine.yaml", tmp_path / "outputs"
    file.write_text(definition)
    register(plan(str(file), "demo", [], root))
    (subject,), lost = find_subjects(root)
    assert (subject.name, subject.typed) == ("mine", str(file)) and not lost
    file.rename(tmp_path / "elsewhere.yaml")
    (subject,), lost = find_subjects(root)
    assert subject.name == "mine" and not lost
    assert load_subject(subject.typed, root=root).name == "mine", "what the page says can be typed"
    path = root / "sweeps" / "mine-demo" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "file": ""}))
    with pytest.raises(UserError, match="None of the sweeps .* can be read: mine-demo: .*ablate run FILE"):
        build_overview(root)


def test_the_page_shows_best_rows_claims_and_tau(tmp_path: Path) -> None:
    entry = entry_of(fakes.finished(tmp_path, (0, 1, 2)))
    assert entry.best[0]["quantity"].startswith("FD-EffLite0")
    assert (entry.best[0]["row"], entry.best[0]["number"]) == ("serial_v2", "113.5")
    page = render_overview([entry], [])
    for text in (
        f"{entry.slug}/index.html",
        "serial_v2: <b>113.5</b>",
        "supported",
        "12 of 12 cells done",
        "MaskMamba",
    ):
        assert text in page
    assert "τ" in page and "<script" not in page
    assert entry.claims[0]["judgement"] in ("supported", "contradicted", "undecided")


def test_sweeps_of_one_paper_stand_together_whatever_its_tables_are_called(tmp_path: Path) -> None:
    report = {"rows": "hybrid_scheme", "columns": ["fd_efflite0"]}
    parts = {"report": report, "citation": "Li, Yang: Mamba. arXiv 1, 2024"}
    tables = ("Slides 6, 7 and 14", "Table 3", "")
    entries = [entry_of(fakes.subject(tmp_path, in_paper=table, **parts)) for table in tables]
    assert list(by_paper(entries)) == ["Li, Yang: Mamba. arXiv 1, 2024"]
    assert by_paper([entry_of(fakes.subject(tmp_path, report=report, citation=""))]).keys() == {NO_PAPER}


def test_groups_have_their_own_best_row(tmp_path: Path) -> None:
    best = entry_of(spread(tmp_path)).best
    assert [(found["quantity"].partition(" at ")[2], found["row"]) for found in best] == [
        ("size B, guidance 1", "single"),
        ("size B, guidance 2", "single"),
        ("size L, guidance 2", "single"),
    ]


def test_a_plan_of_another_version_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells may have fields that are gone; the report plans the sweep anew. A damaged one is named."""
    for sweep in ("maskmamba-mask-ratio", "maskmamba-hybrid-schemes"):
        register(plan(sweep, "demo", [], tmp_path))
    path = tmp_path / "sweeps" / "maskmamba-mask-ratio-demo" / "plan.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "cells": [{"name": "older", "colour": "red"}]}))
    subjects, lost = find_subjects(tmp_path)
    assert {subject.name for subject in subjects} == {"maskmamba-mask-ratio", "maskmamba-hybrid-schemes"} and not lost
    for damaged in (path.read_text()[:20], "[]", json.dumps({**record, "file": [1]})):
        path.write_text(damaged)
        subjects, lost = find_subjects(tmp_path)
        assert [subject.name for subject in subjects] == ["maskmamba-hybrid-schemes"]
        assert len(lost) == 1 and "plan.json is damaged" in lost[0]
        list_sweeps(tmp_path)
        assert "plan.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["maskmamba-mask-ratio", "--all"]])
def test_a_sweep_or_all_of_them(tmp_path: Path, ablate: Ablate, words: list[str]) -> None:
    code, _, error = ablate("report", *words, "--root", tmp_path)
    assert code == 2 and "--all" in error
