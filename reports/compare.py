"""Two runs side by side: where their configurations differ, what they measured, their curves and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.files import atomic_path, atomic_write_json, atomic_write_text
from experiments.identity import NOT_SEMANTIC
from experiments.store import Run, RunStore
from reports.aggregate import Row
from reports.facts import differing_facts
from reports.figures import draw
from reports.layout import Figure
from reports.quantities import heading, is_end, with_ends
from reports.records import Record, record_of
from reports.samples import collect_samples, grid_image
from reports.style import save
from reports.tables import DASH


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs."""

    names: tuple[str, str]
    configuration: dict[str, tuple[Any, Any]]
    """Semantic keys with different values."""
    metrics: dict[str, tuple[float | None, float | None]]
    surroundings: dict[str, tuple[str, str]]
    """What both were made with and is no configuration: code, kernels, hardware; where it differs."""

    def to_markdown(self) -> str:
        """Tables of the configuration, of what else they were made with, if that differs, and of the metrics."""
        head = f"| | {self.names[0]} | {self.names[1]} |\n|---|---:|---:|\n"
        lines = [f"| `{key}` | {a} | {b} |" for key, (a, b) in self.configuration.items()]
        text = f"## Configuration\n\n{head}" + "\n".join(lines or ["| no difference | | |"])
        if self.surroundings:
            lines = [f"| {name} | {a} | {b} |" for name, (a, b) in self.surroundings.items()]
            text += f"\n\n## Made with\n\n{head}" + "\n".join(lines)
        lines = []
        sides = [{name: value for name, pair in self.metrics.items() if (value := pair[i]) is not None} for i in (0, 1)]
        for name in self.metrics:
            if is_end(name, self.metrics):
                continue
            shown = [with_ends(name, side) if name in side else DASH for side in sides]
            lines.append(f"| {heading(name)} | {shown[0]} | {shown[1]} |")
        return f"{text}\n\n## Metrics\n\n{head}" + "\n".join(lines) + "\n"


def compare_runs(left: str, right: str, root: Path, out: Path | None = None) -> tuple[Comparison, Path]:
    """Compare two runs into a folder: compare.md, compare.json, curves.png and .pdf, samples.png.

    Args:
        left, right: ids of runs, unique parts of ids, or folders.
        out: by default reports/compare-<left>-<right> under the root.

    Raises:
        UserError: no such run.
    """
    store = RunStore(root)
    runs = [store.find(word) for word in (left, right)]
    first, second = records = [record_of(run) for run in runs]
    names = _names(*runs)
    rows = [Row({"run": name}, (record,)) for name, record in zip(names, records, strict=True)]
    folder = out or root / "reports" / f"compare-{names[0]}-{names[1]}"
    known = {**first.config, **second.config}
    around = {name: pair for name, pair in differing_facts(first, second).items() if not (name in known or "-" in pair)}
    found = Comparison(names, _different(first.config, second.config), _metrics(records), around)
    atomic_write_text(folder / "compare.md", found.to_markdown())
    atomic_write_json(
        folder / "compare.json",
        {
            "runs": found.names,
            "configuration": found.configuration,
            "surroundings": found.surroundings,
            "metrics": found.metrics,
        },
    )
    for key in ("train/loss", "val/loss"):
        if (drawing := draw(Figure("curves", key), rows)) is not None:
            save(drawing, folder / f"curves_{key.replace('/', '-')}")
    if samples := collect_samples(rows, 9):
        with atomic_path(folder / "samples.png") as temporary:
            grid_image(samples).save(temporary)
    return found, folder


def _names(left: Run, right: Run) -> tuple[str, str]:
    """Their ids, and where these are the same, since code is no part of them, also where the two folders part."""
    if left.id != right.id:
        return left.id, right.id
    pairs = zip(left.folder.resolve().parts, right.folder.resolve().parts, strict=False)
    a, b = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    return (f"{left.id}@{a}", f"{right.id}@{b}") if a else (left.id, right.id)


def _different(left: dict[str, Any], right: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [key for key in {**left, **right} if key not in NOT_SEMANTIC and not key.startswith("runtime.")]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _metrics(records: Sequence[Record]) -> dict[str, tuple[float | None, float | None]]:
    names = dict.fromkeys(name for record in records for name in record.metrics)
    first, second = records
    return {name: (first.metrics.get(name), second.metrics.get(name)) for name in names}
