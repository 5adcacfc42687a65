"""Code versions that are known to give the same numbers: a cell was run again, and nothing came out different.

The evidence is what `ablate reproduce` leaves under a root; nobody has to keep a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError
from experiments.provenance import code_of
from experiments.store import RunStore
from reports.records import Record, record_of
from reports.reproduce import compare_metrics

ROUNDING = 1e-9
"""Relative difference of metrics that is none: sums of a bootstrap round with the number of threads."""
Code = tuple[str, str]
"""Name of a generator, and a code version it ran with."""


@dataclass(frozen=True)
class Evidence:
    """One run that two code versions made, with the same numbers."""

    generator: str
    codes: tuple[str, str]
    run_id: str


def find_evidence(root: Path) -> list[Evidence]:
    """All there is under a root. What cannot be read is none."""
    found = []
    for folder in sorted((root / "reproduced").glob("*")):
        try:
            found += [item for run in RunStore(folder).runs() if (item := _evidence(root, record_of(run)))]
        except UserError:
            continue
    return found


def _evidence(root: Path, again: Record) -> Evidence | None:
    original = RunStore(root).run(again.run_id)
    if not again.eval_id or not original.is_done() or not original.evaluation(again.eval_id).is_done():
        return None
    then = record_of(original, original.evaluation(again.eval_id))
    # What only one of them measured came in, or went, with the code between them.
    lines = [line for line in compare_metrics(then, again, ROUNDING) if line.then is not None and line.now is not None]
    if any(line.differs for line in lines) or not {line.name for line in lines} & {*then.evaluation_result["metrics"]}:
        return None
    made_by = [{code_of(origin) for origin in record.origins} for record in (then, again)]
    # A run that one version trained and another evaluated tells nothing of either.
    if any(len(codes) != 1 or None in codes for codes in made_by):
        return None
    (before,), (after,) = ([code for code in codes if code] for codes in made_by)
    return Evidence(then.config["generator.name"], (before, after), then.run_id) if before != after else None


def alike(evidence: Iterable[Evidence]) -> dict[Code, frozenset[str]]:
    """Code version -> all that are known to be the same, itself among them."""
    classes: list[set[Code]] = []
    for item in evidence:
        pair = {(item.generator, code) for code in item.codes}
        for other in [known for known in classes if known & pair]:
            classes.remove(other)
            pair |= other
        classes.append(pair)
    return {member: frozenset(code for _, code in known) for known in classes for member in known}


def equality_notes(records: Iterable[Record], evidence: Sequence[Evidence]) -> list[str]:
    """Where a table takes several code versions for one: why."""
    used: dict[tuple[str, frozenset[str]], set[str]] = {}
    same = alike(evidence)
    for record in records:
        generator = record.config.get("generator.name", "")
        for origin in record.origins:
            code = code_of(origin)
            if code and (generator, code) in same:
                used.setdefault((generator, same[generator, code]), set()).add(code)
    notes = []
    for (generator, known), codes in used.items():
        runs = [e.run_id for e in evidence if e.generator == generator and known.issuperset(e.codes)]
        if len(codes) > 1:
            notes.append(
                f"Code versions {' and '.join(sorted(codes))} count as one for {generator}: "
                f"they gave the same numbers, to nine digits, for {', '.join(dict.fromkeys(runs))}."
            )
    return notes
