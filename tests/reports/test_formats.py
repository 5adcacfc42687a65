"""Tables against golden files, and LaTeX against LaTeX.

After a wanted change: UPDATE_GOLDEN=1 python -m pytest tests/reports/test_formats.py, then read the difference.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from reports.entry import entry_of
from reports.formats import latex, markdown, to_csv, to_latex, to_markdown, write_parquet
from reports.quantities import Quantity
from reports.subject import Subject
from tests.reports import fakes

GOLDEN = Path(__file__).parent / "golden"
ENGINE = shutil.which("tectonic") or shutil.which("pdflatex")


def partial(root: Path) -> Subject:
    """Three seeds a row: one row complete, one partial, one failed, one that stands apart."""
    cells = fakes.cells_of((0, 1, 2))
    for cell in cells:
        scheme = cell.labels["hybrid_scheme"]
        fd = fakes.FD[scheme] + 1.5 * cell.seed
        if scheme == "group_v2":
            fakes.write_status(
                root, cell, state="failed", reason="out of memory on the GPU, 2.5 GiB short", cause="oom"
            )
        elif scheme == "group_v1":
            fakes.write_run(root, cell, fd, run__provenance__backends__selective_scan="torch")
        elif scheme == "serial_v2" or cell.seed == 0:
            fakes.write_run(root, cell, fd)
    return fakes.subject(root, cells)


def spread(root: Path) -> Subject:
    """Two axes, one of them over the columns, grouped, against published numbers."""
    cells = [
        fakes.cell_of({"size": size, "adaln": adaln, "guidance": guidance})
        for size in ("B", "L")
        for adaln in ("single", "per_layer")
        for guidance in ("1", "2")
        if (size, adaln, guidance) != ("L", "per_layer", "1")
    ]
    for number, cell in enumerate(cells):
        fakes.write_run(root, cell, 100 + 7 * number % 30)
    report = {
        "rows": "adaln",
        "group": "size",
        "spread": "guidance",
        "columns": ["fd_efflite0", {"metric": "seconds_per_image", "best": "none"}],
        "baseline": {"adaln": "single"},
        "reference": "aim.table3",
        "footnotes": ["Sizes B & L at 50% of the width: a_b <c>."],
    }
    declared = ["generator.size", "generator.adaln", "generator.guidance"]
    axes = {"size": ["B", "L"], "adaln": ["single", "per_layer"], "guidance": ["1", "2"]}
    return fakes.subject(root, cells, report=report, axes=axes, declared=declared, title="adaLN of AiM")


def resampled(root: Path) -> Subject:
    """One training a row, with bootstrap intervals; two rows within each other's noise."""
    for cell in fakes.cells_of():
        scheme = cell.labels["hybrid_scheme"]
        fd = 114.0 if scheme == "serial_v1" else fakes.FD[scheme]
        noise = [(5 if i % 2 else -5) * (1 if scheme == "serial_v1" else -1) for i in range(40)]
        changes = {"evaluation__metrics__fd_efflite0_low": fd - 9.8, "evaluation__metrics__fd_efflite0_high": fd + 9.8}
        fakes.write_run(root, cell, fd, **changes, evaluation__replicates={"fd_efflite0": noise})
    return fakes.subject(root)


LABELS = ("[2, 2, 4]", "*star*", "two\nlines", "a|b", "<b>")


def labelled(root: Path) -> Subject:
    """Labels with characters that mean something to LaTeX and Markdown."""
    cells = [replace(fakes.cell_of({"width": label}), run_id=f"run-{i}") for i, label in enumerate(LABELS)]
    for cell in cells:
        fakes.write_run(root, cell)
    report = {"rows": "width", "columns": ["fd_efflite0"]}
    return fakes.subject(root, cells, report=report, axes={"width": LABELS}, declared=["generator.width"])


CASES = {"finished": fakes.finished, "partial": partial, "spread": spread, "resampled": resampled, "labelled": labelled}
FORMATS = {
    "md": lambda subject: to_markdown(subject.table),
    "tex": lambda subject: to_latex(subject.table, "golden", ["made by a test"]),
    "csv": lambda subject: to_csv(subject.table),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_golden(tmp_path: Path, case: str, suffix: str) -> None:
    text, path = FORMATS[suffix](CASES[case](tmp_path)), GOLDEN / f"{case}.{suffix}"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.skipif(ENGINE is None, reason="neither tectonic nor pdflatex is installed")
@pytest.mark.parametrize("case", CASES)
def test_latex_compiles_without_complaint(tmp_path: Path, case: str) -> None:
    table = to_latex(CASES[case](tmp_path / "root").table, "x", ["100% of _everything_ \\ in a comment"])
    document = (
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\usepackage[margin=2.5cm]{geometry}"
        f"\\begin{{document}}\n{table}\\end{{document}}\n"
    )
    (tmp_path / "x.tex").write_text(document, encoding="utf-8")
    command = [str(ENGINE), "x.tex"] if "tectonic" in str(ENGINE) else [str(ENGINE), "-halt-on-error", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and (tmp_path / "x.pdf").stat().st_size > 1000


@pytest.mark.parametrize("text", ["50% & more", "a_b^c~d", "{x} \\ $y$ #1", "<0.5> ± 2 ≈ 3 × 4 ↓ ↑ – − … τ", "漢"])
def test_latex_escapes(text: str) -> None:
    assert not re.search(r"(?<!\\)[&%#_]", latex(text)) and latex(text).isascii()


@pytest.mark.parametrize("text", ["*a*", "a~~b~~", "<b>", "&amp;", "[a](b)", "$x$", "_a_ b", "a\\", "a`b"])
def test_markdown_escapes(text: str) -> None:
    escaped = markdown(text)
    assert escaped != text and escaped.replace("\\", "") == text.replace("\\", "")


def test_markdown_leaves_what_means_nothing() -> None:
    for text in ("group_v1 & B", "[2, 2, 4]", "`a_ *b*` of c_d", "-0.4 ± 0.1"):
        assert markdown(text) == text
    assert markdown("two\nlines") == "two lines"


def test_a_label_breaks_neither_a_row_of_latex_nor_one_of_markdown(tmp_path: Path) -> None:
    """A bracket or a star after the end of a row, or after a rule, is an argument of it."""
    table = labelled(tmp_path).table
    tex, lines = to_latex(table, "x"), to_markdown(table).splitlines()
    assert "{}[2, 2, 4] &" in tex and "{}*star* &" in tex and "two lines &" in tex
    assert not re.search(r"(\\\\|rule)\n[\[*]", tex)
    first = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    assert first == ["| Width", "| [2, 2, 4]", r"| \*star\*", "| two lines", r"| a\|b", r"| \<b>"]


def test_code_in_notes() -> None:
    assert latex("`a_b` of c_d") == r"\texttt{a\_b} of c\_d" and latex("a ` alone") == "a ` alone"


def test_csv_holds_unrounded_numbers_and_leaves_missing_ones_empty(tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(partial(tmp_path).table))))
    by_scheme = {line["hybrid_scheme"]: line for line in lines}
    assert float(by_scheme["serial_v2"]["fd_efflite0"]) == 113.5
    assert float(by_scheme["serial_v2"]["fd_efflite0_std"]) == 1.5
    assert by_scheme["serial_v1"]["fd_efflite0_note"] == "n=1/3 seeds"
    assert by_scheme["group_v2"]["fd_efflite0"] == "" and "out of memory" in by_scheme["group_v2"]["fd_efflite0_note"]
    assert "kernel selective_scan" in by_scheme["group_v1"]["flags"]


def test_intervals_stand_beside_single_trainings_and_say_what_they_cover(tmp_path: Path) -> None:
    table = resampled(tmp_path).table
    by_scheme = {row.labels["hybrid_scheme"]: row.entries[2] for row in table.rows}
    assert by_scheme["serial_v2"].full == "112.0 [102.2, 121.8]" and by_scheme["serial_v1"].doubt == "="
    assert by_scheme["group_v1"].doubt == ""
    assert any("bootstrap interval over samples of that training" in text for _, text in table.notes)
    assert any("spread over training seeds is not known" in text for _, text in table.notes)
    (line,) = (x for x in csv.DictReader(io.StringIO(to_csv(table))) if x["hybrid_scheme"] == "serial_v2")
    assert (float(line["fd_efflite0_low"]), float(line["fd_efflite0_high"])) == (102.2, 121.8)
    assert "kid_efflite0_low" not in line


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, None),
        ({"group_v1": 49, "serial_v2": 36}, "IS of group_v1, serial_v2 without an interval: of fewer than 50 images"),
        (dict.fromkeys(fakes.SCHEMES, 49), "IS without an interval: of fewer than 50 images none that was tried"),
    ],
)
def test_scores_of_too_few_images_say_why_they_have_no_interval(
    tmp_path: Path, counts: dict[str, int], said: str | None
) -> None:
    for cell in fakes.cells_of():
        count = counts.get(cell.labels["hybrid_scheme"], 50)
        metrics = {"fd_efflite0": 100.0, "fd_efflite0_low": 90.0, "fd_efflite0_high": 110.0, "is": 4.0}
        metrics |= {"is_low": 3.0, "is_high": 5.0} if count == 50 else {}
        fakes.write_run(tmp_path, cell, evaluation__metrics=metrics, evaluation__protocol__num_samples=count)
    notes = [text for _, text in fakes.subject(tmp_path).table.notes if "without an interval" in text]
    assert len(notes) == bool(said) and all(text.startswith(said) for text in notes)


@pytest.mark.parametrize(
    ("form", "mean", "deviation", "text"),
    [
        (".3g", 1.2, 0.000603, "1.20000 ± 0.00060"),
        (".3g", 1.2502, 0.0117, "1.250 ± 0.012"),
        (".3g", 12345.0, 678.0, "12345 ± 678"),
        (".3g", 4.3333, 1.1547, "4.3 ± 1.2"),
        (".3g", 5.0, 0.0, "5 ± 0"),
        (".3g", 3e-8, 1e-8, "3e-08 ± 1e-08"),
        (".1f", 875.52, 42.41, "875.5 ± 42.4"),
    ],
)
def test_a_deviation_has_the_decimals_of_its_mean(form: str, mean: float, deviation: float, text: str) -> None:
    assert Quantity("memory", "Memory", format=form).spread(mean, deviation) == text


def test_fd_and_fid_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    table = spread(tmp_path).table
    heads = [(head.text, head.kind) for head in table.heads]
    assert ("FD-EffLite0 ↓", "measured") in heads and ("FID (paper)", "paper") in heads
    assert not any("FID" in text for text, kind in heads if kind == "measured")
    assert any("is not FID" in text for _, text in table.notes)


def test_ranks_are_given_within_a_group_and_never_to_published_numbers(tmp_path: Path) -> None:
    table = spread(tmp_path).table
    for group in ("B", "L"):
        best = [e for row in table.rows if row.group == group for e in row.entries if e.rank == "best"]
        assert best and all(entry.kind == "measured" for entry in best)


def test_group_headings_of_numbers_name_their_axis(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"depth": d, "hybrid_scheme": s}) for d in ("2", "4") for s in ("serial_v1", "serial_v2")]
    report = {"rows": "hybrid_scheme", "group": "depth", "columns": ["fd_efflite0"]}
    axes = {"depth": ["2", "4"], "hybrid_scheme": ["serial_v1", "serial_v2"]}
    table = fakes.subject(tmp_path, cells, report=report, axes=axes).table
    assert "| **depth 2** |" in to_markdown(table) and r"\textit{depth 4}" in to_latex(table, "x")
    assert list(csv.DictReader(io.StringIO(to_csv(table))))[0]["depth"] == "2"


def test_parquet_is_written_only_where_pyarrow_is_installed(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    written = write_parquet(fakes.finished(tmp_path / "root").table, path)
    assert written == path.exists() == (find_spec("pyarrow") is not None)
    if written:
        import pandas

        frame = pandas.read_parquet(path)
        assert frame.set_index("hybrid_scheme").fd_efflite0["serial_v2"] == 112.0 and len(frame) == 4


def test_rows_that_the_baseline_does_not_meet_are_not_ranked_together(tmp_path: Path) -> None:
    cells = [fakes.cell_of({"resolution": r, "layer": layer}) for r in ("32", "64") for layer in ("a", "b")]
    for number, cell in enumerate(cells):
        fakes.write_run(tmp_path, cell, 100.0 + number)
    report = {"rows": ["resolution", "layer"], "columns": ["fd_efflite0"], "baseline": {"layer": "a"}}
    axes = {"resolution": ["32", "64"], "layer": ["a", "b"]}
    subject = fakes.subject(tmp_path, cells, report=report, axes=axes)
    assert [row.entries[2].rank for row in subject.table.rows] == ["best", "", "best", ""]
    assert any(
        text.startswith("Bold is best, underlined second at equal resolution") for _, text in subject.table.notes
    )
    found = [(best["quantity"].partition(" at ")[2], best["row"][0]) for best in entry_of(subject).best]
    assert found == [("resolution 32", "a"), ("resolution 64", "a")], "the page over all sweeps ranks as the table does"
