"""What a report is about: a planned sweep, its layout, and everything that its cells have measured so far."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from experiments.errors import UserError, unknown
from lightning_modules.names import some
from reports.aggregate import LISTED, Row, row_name, rows_of
from reports.amended import amended_notes
from reports.claims import Verdict, agreement, judge
from reports.compute import compute_notes
from reports.crossing import crossing_notes
from reports.equal_code import Evidence, equality_notes, find_evidence
from reports.equal_code import alike as alike_codes
from reports.guard import Flag, guard
from reports.layout import Layout, parse_layout
from reports.measured import with_measured
from reports.one_factor import ISO, OneFactor, one_factor
from reports.protocol import protocol_notes
from reports.ranking import tie_notes
from reports.records import Record, collect, named
from reports.searches import search_notes
from reports.tables import Table, build_table
from sweeps.amendments import amendment_words
from sweeps.axes import Sweep
from sweeps.definition import load_sweep
from sweeps.planner import Plan, plan
from sweeps.registry import is_begun
from sweeps.varied import varied_keys

LONGEST_PART = 100
"""Characters that a report's folder may say of the part that was asked for."""


@dataclass(frozen=True)
class Subject:
    """One sweep at one scale, with its records."""

    name: str
    scale: str
    title: str
    reproduces: str
    citation: str
    """Of the paper; "" where the sweep reproduces none."""
    in_paper: str
    """Its table or figure, as the paper numbers it, or ""."""
    url: str
    """Of the paper, or ""."""
    root: Path
    layout: Layout
    declared: frozenset[str]
    """Configuration keys that the axes vary."""
    records: tuple[Record, ...]
    remarks: tuple[str, ...] = ()
    """What the plan has to say: cells left out, axes that change nothing."""
    words: tuple[str, ...] = ()
    """What was typed behind its name: overrides, axes, seeds."""
    typed: str = ""
    """What names it on a command line where that is not its name: the path of its file."""
    slug: str = ""
    """Its own name among sweeps; configuration overrides make another sweep of it."""
    part: str = ""
    """Which labels and seeds were asked for, where these are not its own; "" = the whole sweep."""

    @cached_property
    def rows(self) -> list[Row]:
        """The records by their labels, with what makes rows incomparable."""
        flags: list[dict[str, str]] = [{} for _ in self._rows]
        tasks: list[dict[str, str]] = [{} for _ in self._rows]
        for flag in self._guarded:
            (tasks if flag.declared else flags)[flag.row][flag.fact] = flag.text
        return [replace(row, flags=f, task=t) for row, f, t in zip(self._rows, flags, tasks, strict=True)]

    @cached_property
    def _rows(self) -> list[Row]:
        """Before anything is said of them."""
        return rows_of(self.records)

    @cached_property
    def flags(self) -> list[Flag]:
        """What makes rows incomparable, and is not varied on purpose."""
        return [flag for flag in self._guarded if not flag.declared]

    @cached_property
    def _guarded(self) -> list[Flag]:
        return guard(self._rows, self.declared, self.layout.baseline, alike_codes(self.same_code))

    @cached_property
    def same_code(self) -> list[Evidence]:
        """Which code versions have given the same numbers."""
        return find_evidence(self.root)

    @cached_property
    def one_factor(self) -> list[OneFactor]:
        """How rows differ from the baseline."""
        return one_factor(self.rows, self.layout.baseline)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The judged claims."""
        return [judge(claim, self.rows) for claim in self.layout.claims]

    @cached_property
    def table(self) -> Table:
        """The laid-out table."""
        flagged = {index: row.flags.values() for index, row in enumerate(self.rows) if row.flags}
        marks = {index: f"not comparable: {'; '.join(texts)}" for index, texts in flagged.items()}
        notes = [
            *self.layout.footnotes,
            *protocol_notes(self.records, {column.metric for column in self.layout.columns}),
            *equality_notes(self.records, self.same_code),
            *self._sizes(),
            *self._crossings(),
            *search_notes(self.records),
            *amended_notes(self.rows),
            *tie_notes(self.layout, self.rows),
            *self.agreements,
            *self.remarks,
        ]
        return build_table(self.title, self.layout, self.rows, marks, notes)

    @property
    def folder(self) -> str:
        """Name of its report's folder: that of a part, or of other seeds, stands beside the whole sweep's."""
        return f"{self.slug}-{self.part}" if self.part else self.slug

    @property
    def is_begun(self) -> bool:
        """Whether anyone has started it, or a run of another sweep has done some of it."""
        there = any(record.run_result or record.state.state != "missing" for record in self.records)
        return there or is_begun(self.root, self.slug)

    @property
    def baseline(self) -> str:
        """The baseline in words; "" without one."""
        return ", ".join(named(axis, label) for axis, label in self.layout.baseline.items())

    @property
    def command(self) -> str:
        """What runs the sweep and writes this report."""
        return self.command_for("run")

    def command_for(self, verb: str) -> str:
        """The `ablate` command that does this to the sweep."""
        return self._typed(verb, self.words)

    def command_of(self, record: Record) -> str:
        """The command that makes this record's number again, in whatever folder of outputs."""
        own = {**record.labels, "seeds": str(record.seed)}
        amended = {key: value for key, value in record.amended.items() if key not in self.declared}
        others = [word for word in self.words if word.partition("=")[0] not in own.keys() | amended.keys()]
        words = [*others, *amendment_words(amended), *(f"{key}={value}" for key, value in own.items())]
        return self._typed("run", words)

    def _typed(self, verb: str, words: Sequence[str]) -> str:
        return shlex.join(["ablate", verb, self.typed or self.name, "--scale", self.scale, *words])

    def counts(self) -> dict[str, int]:
        """Number of cells by state."""
        return dict(Counter(record.state.state for record in self.records))

    def find(self, word: str) -> Record:
        """The record that a person means: by its cell's name, a part of it, or the beginning of a run or evaluation id.

        Raises:
            UserError: none, or several.
        """
        ways = (
            [r for r in self.records if word in (r.cell, r.name)],
            [r for r in self.records if word in r.cell or word in r.name],
            [r for r in self.records if r.run_id.startswith(word) or r.eval_id.startswith(word)],
        )
        found = next((records for records in ways if records), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"'{word}' fits {len(found)} cells of {self.name}: {some([r.cell for r in found])}.")
        raise unknown(f"cell of {self.name}", word, [record.cell for record in self.records])

    def _sizes(self) -> list[str]:
        """Rows that are not of the baseline's size, for parameters and FLOPs."""
        notes = []
        for metric in ("parameters", "flops"):
            off = [(item.row, getattr(item, metric)) for item in self.one_factor]
            other = [f"{row_name(self.rows[i], self.rows)} {x:+.0%}" for i, x in off if x is not None and abs(x) > ISO]
            if len(other) > LISTED:
                ends = [f(x for _, x in off if x is not None and abs(x) > ISO) for f in (min, max)]
                other = [f"{len(other)} rows, by {ends[0]:+.0%} to {ends[1]:+.0%}"]
            if other:
                notes.append(f"Not equal in {metric} to the baseline, {self.baseline}: {', '.join(other)}.")
        return notes

    def _crossings(self) -> list[str]:
        return [note for crossing in self.layout.crossings for note in crossing_notes(crossing, self.rows)]

    @cached_property
    def agreements(self) -> list[str]:
        """Kendall's tau between each published column and ours, in words."""
        table, found = self.layout.reference, []
        for column in self.layout.columns if table else ():
            if table and column.paper:
                tau, n = agreement(table, column.paper, self.rows, column.metric)
                if tau is not None:
                    label = table.columns[column.paper].label
                    found.append(
                        f"Kendall's τ between the paper's {label} and our {column.label}: {tau:+.2f} ({n} rows)."
                    )
        return found


def load_subject(name: str, scale: str = "", overrides: Sequence[str] = (), root: Path | str | None = None) -> Subject:
    """Plan a sweep and look at its runs. Raises UserError as `sweeps.planner.plan` and `parse_layout` do."""
    return subject_of(plan(name, scale, overrides, root))


def subject_of(planned: Plan) -> Subject:
    """The subject of a planned sweep, looked at now."""
    sweep = planned.sweep
    paper = sweep.config.paper
    picked = [named(axis, label) for axis, labels in planned.picked.items() if axis != "seeds" for label in labels]
    remarks = [f"A part of the sweep: {', '.join(picked)}."] if picked else []
    remarks += [f"Left out: {_words(item.labels)} ({item.reason})." for item in planned.excluded]
    remarks += [
        f"{_words(a.labels)} and {_words(b.labels)} are one configuration: nothing was varied between them."
        for a, b in planned.duplicates
    ]
    remarks += compute_notes(planned)
    records = tuple(collect(planned.cells, planned.root))
    return Subject(
        name=sweep.name,
        scale=planned.scale,
        title=sweep.config.title,
        reproduces=sweep.config.reproduces,
        citation=paper.citation or paper.system,
        in_paper=paper.table,
        url=paper.url,
        root=planned.root,
        layout=with_measured(_layout(sweep), records),
        declared=frozenset(varied_keys(sweep, planned.scale)),
        records=records,
        remarks=tuple(remarks),
        words=tuple(word for word in planned.request.words if planned.request.changes_results(word.partition("=")[0])),
        slug=planned.folder.name,
        part=_part(planned.picked),
        typed=_as_typed(planned.name_or_path),
    )


def check_report(name: str, root: Path | str | None = None) -> None:
    """Read the `report` block of a sweep as its report will, so that a typo comes out before the runs, not after.

    Args:
        root: the folder of outputs, as `load_sweep` takes it.

    Raises:
        UserError: naming the sweep's file.
    """
    sweep = load_sweep(name, root)
    try:
        _layout(sweep)
    except UserError as error:
        raise UserError(f"Sweep {sweep.path}: {error}") from error


def _layout(sweep: Sweep) -> Layout:
    return parse_layout(sweep.report, {axis.name: axis.labels for axis in sweep.axes})


def _part(picked: Mapping[str, Sequence[str]]) -> str:
    """What was picked, as it was typed, for the name of a folder; of much, its digest."""
    text = "-".join(f"{axis}={','.join(labels)}" for axis, labels in picked.items())
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return re.sub(r"[^\w=.,+-]+", "_", text) if len(text) <= LONGEST_PART else digest


def _as_typed(name_or_path: str) -> str:
    """A path beneath the current folder from there on."""
    path, here = Path(name_or_path), Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else name_or_path


def _words(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in labels.items())
