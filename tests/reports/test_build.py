"""The whole report: complete, self-contained, and all or nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.errors import UserError
from reports import build as building
from reports.build import build
from reports.entry import entry_of
from reports.overview import render_overview
from tests.reports import fakes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    return build(fakes.finished(root), root / "out").parent


def test_all_files_are_there(report: Path) -> None:
    found = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    figures = ["bars_fd_efflite0", "curves_train-loss", "pareto_fd_efflite0_seconds_per_image"]
    expected = {"table.md", "table.tex", "table.csv", "samples.png", "index.html", "provenance.json"}
    expected |= {f"figures/{name}.{suffix}" for name in figures for suffix in ("png", "pdf")}
    assert found - {"table.parquet"} == expected
    assert not list(report.parent.glob(".out*"))


def test_no_figure_overwrites_another(tmp_path: Path) -> None:
    """The same quantities in other looks have a number behind the name that the first of them has alone."""
    fakes.finished(tmp_path)
    pareto = {"kind": "pareto", "x": "seconds_per_image", "y": "fd_efflite0"}
    figures = [
        pareto,
        {**pareto, "beside": ["parameters"]},
        {"kind": "bars", "y": "fd_efflite0"},
        {**pareto, "log": "x"},
    ]
    out = build(fakes.subject(tmp_path, report={**fakes.REPORT, "figure": figures}), tmp_path / "out").parent
    names = [f"pareto_fd_efflite0_seconds_per_image{number}" for number in ("", "_2", "_3")]
    expected = {f"figures/{name}.{suffix}" for name in (*names, "bars_fd_efflite0") for suffix in ("png", "pdf")}
    assert {str(path.relative_to(out)) for path in (out / "figures").iterdir()} == expected
    assert expected <= set(re.findall(r'href="([^"]*)"', (out / "index.html").read_text()))


def test_the_page_needs_nothing_from_outside(report: Path) -> None:
    page = (report / "index.html").read_text()
    for source in re.findall(r'(?:src|srcset|href)="([^"]*)"', page):
        assert source.startswith(("data:", "#")) or (report / source).is_file(), source[:80]
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|srcset)="([^"]*)"', page))
    assert "<script" not in page and "@import" not in page and "url(" not in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_the_page_shows_everything(report: Path) -> None:
    page = (report / "index.html").read_text()
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    for text in ("FD-EffLite0", "112.0", "supported", "4 of 4 done", "serial_v2", "seeds=0", "0123456789", "Smileys"):
        assert text in page


def test_titles_are_escaped(tmp_path: Path) -> None:
    subject = fakes.subject(tmp_path, title="<b>5 > 4 & 3</b>", reproduces='"quoted" <script>')
    page = build(subject, tmp_path / "out").read_text()
    assert "&lt;b&gt;5 &gt; 4 &amp; 3&lt;/b&gt;" in page and "<script" not in page


def test_empty_parts_of_a_result_and_bytes_that_are_no_text_are_survived(tmp_path: Path) -> None:
    subject = fakes.finished(tmp_path)
    record = subject.records[0]
    assert record.run is not None and record.evaluation is not None
    result = json.loads(record.evaluation.result_path.read_text())
    empty = {"protocol": None, "provenance": None, "replicates": None}
    record.evaluation.result_path.write_text(json.dumps({**result, **empty}))
    record.run.metrics_path.write_bytes(b"\x00\xff\n" + record.run.metrics_path.read_bytes())
    again = fakes.subject(tmp_path).records[0]
    assert again.evaluation_result.get("provenance", {}) == {} and again.replicates("fd_efflite0") == ()
    assert again.curve("train/loss") == record.curve("train/loss")


def test_the_name_of_the_paper_leads_to_it(tmp_path: Path) -> None:
    page = build(fakes.subject(tmp_path, url="https://arxiv.org/abs/2409.19937"), tmp_path / "out").read_text()
    assert re.search(r'Reproduces <a href="https://arxiv.org/abs/2409.19937">[^<]+</a>', page)


def test_a_sweep_that_has_not_begun_has_a_report_too(tmp_path: Path) -> None:
    page = build(fakes.subject(tmp_path), tmp_path / "out").read_text()
    assert "not run" in page and "0 of 4 done" in page and "not measured" in page


def test_provenance_leads_from_every_number_to_its_run(report: Path) -> None:
    origin = json.loads((report / "provenance.json").read_text())
    assert len(origin["numbers"]) == 4 * 4
    for number in origin["numbers"]:
        for value in number["values"]:
            evaluation = origin["evaluations"][value["eval_id"]]
            run = origin["runs"][evaluation["run_id"]]
            assert run["provenance"]["git_commit"] and evaluation["config"]["trainer.max_steps"] == 400
            scheme = number["labels"]["hybrid_scheme"]
            assert value["reproduce"] == f"ablate run fake-hybrid-schemes --scale demo hybrid_scheme={scheme} seeds=0"


def test_tables_say_where_they_come_from(report: Path) -> None:
    note = "made with `ablate run fake-hybrid-schemes --scale demo`; 400 training steps; code 0123456789."
    assert all(note in (report / name).read_text() for name in ("table.md", "table.tex"))


def test_a_newer_report_replaces_an_older_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(fakes.subject(tmp_path), out)
    (out / "left-over.txt").write_text("old")
    index = build(fakes.finished(tmp_path), out)
    assert "4 of 4 done" in index.read_text() and not (out / "left-over.txt").exists()


def test_a_folder_that_is_no_report_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.tex").write_text("mine")
    with pytest.raises(UserError, match="is not a report"):
        build(fakes.subject(tmp_path), out)
    assert [path.name for path in out.iterdir()] == ["chapter.tex"]


def test_a_failure_half_way_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    build(fakes.subject(tmp_path), out)
    before = (out / "index.html").read_text()

    def fail(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(building, "render", fail)
    with pytest.raises(RuntimeError):
        build(fakes.finished(tmp_path), out)
    assert (out / "index.html").read_text() == before and not list(tmp_path.glob(".out*"))


@pytest.fixture(scope="module")
def pages(report: Path) -> dict[str, Path]:
    """A sweep's page, and the one over all sweeps."""
    overview = report.parent / "overview.html"
    entry = entry_of(fakes.subject(report.parent))
    overview.write_text(render_overview([entry], ["gone-demo: Unknown sweep 'gone'."]))
    return {"sweep": report / "index.html", "overview": overview}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("kind", ["sweep", "overview"])
def test_a_browser_lays_it_out_without_sideways_scrolling(
    pages: dict[str, Path], tmp_path: Path, kind: str, width: int
) -> None:
    probe = (
        "<script>onload = () => document.title = [document.documentElement.scrollWidth, innerWidth,"
        " [...document.images].every(i => i.complete && i.naturalWidth)].join(' ')</script>"
    )
    page = tmp_path / "probe.html"
    page.write_text(pages[kind].read_text().replace("</body>", f"{probe}</body>"))
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(\d+) (\d+) (\w+)</title>", done.stdout)
    assert title, done.stderr[-500:]
    assert int(title[1]) <= int(title[2]) and title[3] == "true"
