"""Writes a whole report into a folder, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_path, atomic_write_json, atomic_write_text
from reports.aggregate import in_part
from reports.captions import caption
from reports.figures import draw, title_of
from reports.formats import to_csv, to_latex, to_markdown, write_parquet
from reports.layout import Figure
from reports.page import Picture, render
from reports.provenance import origin, origin_note, provenance
from reports.samples import Samples, collect_samples, grid_image
from reports.stages import as_svg, run_folders, stages_image, trained
from reports.style import save, to_svg
from reports.subject import Subject
from reports.unplaced import Unplaced

OURS = ("index.html", "provenance.json")
"""A folder that holds these is a report, and may be replaced by a newer one."""


def build(subject: Subject, out: Path, published: bool = False) -> Path:
    """Write table.md, .tex, .csv and .parquet, figures/, samples.png, index.html and provenance.json.

    Everything is made in a folder beside `out`, which then takes its place.

    Args:
        published: only index.html, table.md, table.csv and provenance.json, without this machine's name and paths.

    Returns:
        The path of index.html.

    Raises:
        UserError: `out` cannot be written, or holds something that is no report.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or all((out / name).exists() for name in OURS))):
        raise UserError(f"{out} exists and is not a report; name another folder with --out, or remove it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror}; name another folder with --out.") from error
    try:
        _write(subject, temporary, published)
        temporary.chmod(0o755)
        _swap(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out / "index.html"


def _write(subject: Subject, folder: Path, published: bool) -> None:
    table = subject.table
    atomic_write_text(folder / "table.md", to_markdown(table, origin_note(subject)))
    atomic_write_text(folder / "table.csv", to_csv(table))
    origins = provenance(subject)
    atomic_write_json(folder / "provenance.json", origins)
    samples = collect_samples(subject.rows, subject.layout.samples, subject.layout.ranked_by)
    pictures = [*_write_figures(subject, folder / "figures"), *_write_stages(subject, folder / "stages.png")]
    if published:
        pictures = [replace(picture, files=()) for picture in pictures]
        (folder / "stages.png").unlink(missing_ok=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)
    else:
        comments = [origin_note(subject), *(f"{record.name}: {origin(record)}" for record in subject.records)]
        atomic_write_text(folder / "table.tex", to_latex(table, subject.name, comments))
        write_parquet(table, folder / "table.parquet")
        _write_samples(samples, folder / "samples.png")
    beside = sorted(path.name for path in folder.iterdir())
    atomic_write_text(folder / "index.html", render(subject, pictures, samples, beside))
    if published:
        # Runs may have been made under another root and brought here.
        roots = {str(subject.root.resolve()), *(str(r.config.get("runtime.root", "")) for r in subject.records)}
        unplaced = Unplaced(origins, filter(os.path.isabs, roots))
        atomic_write_json(folder / "provenance.json", unplaced.record(origins))
        for path in (folder / name for name in ("index.html", "table.md", "table.csv")):
            atomic_write_text(path, unplaced.text(path.read_text(encoding="utf-8")))


def _write_samples(samples: Samples | None, path: Path) -> None:
    if samples:
        with atomic_path(path) as temporary:
            grid_image(samples).save(temporary)


def _write_stages(subject: Subject, path: Path) -> list[Picture]:
    rows, ranked_by = subject.rows, subject.layout.ranked_by
    picture = stages_image(run_folders(rows, ranked_by), subject.layout.stages)
    if picture is None:
        return []
    with atomic_path(path) as temporary:
        picture.save(temporary, "png", optimize=True)
    text = "Samples during training: the same prompts and random numbers at steps spread over it."
    text = " ".join(filter(None, [text, in_part(trained(rows), ranked_by, "trainings")]))
    return [Picture("Samples during training", text, ("stages.png",), as_svg(picture))]


def _write_figures(subject: Subject, folder: Path) -> list[Picture]:
    pictures = []
    figures = subject.layout.figures
    for figure, name in zip(figures, _file_names(figures), strict=True):
        if (drawing := draw(figure, subject.rows)) is None:
            continue
        save(drawing, folder / name)
        files = tuple(f"figures/{name}.{suffix}" for suffix in ("png", "pdf"))
        pictures.append(Picture(title_of(figure), caption(figure, subject.rows), files, to_svg(drawing)))
    return pictures


def _file_names(figures: Sequence[Figure]) -> list[str]:
    """Without suffix; what would be called as an earlier one is gets a number behind its name."""
    names: list[str] = []
    for figure in figures:
        numbered = (f"{figure.name}_{number}" for number in count(2))
        names.append(next(name for name in chain([figure.name], numbered) if name not in names))
    return names


def _swap(new: Path, out: Path) -> None:
    """Put `new` where `out` is; there is no moment at which a killed process leaves half a report under that name."""
    if not out.exists():
        os.replace(new, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    os.replace(out, aside / out.name)
    try:
        os.replace(new, out)
    except OSError:
        os.replace(aside / out.name, out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
