"""What searches chose, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports.quantities import CHOSEN, quantity
from reports.records import Record

LISTED = 4
"""Beyond so many searches, one sentence tells of all; what each chose is in the table's chosen/ columns."""


def search_notes(records: Sequence[Record]) -> list[str]:
    """For each record whose values were searched: what was chosen, out of how many trials, and how good it seemed."""
    searched = [record for record in records if record.search]
    if len(searched) > LISTED:
        return [_summary(searched)]
    notes = []
    for record in searched:
        chosen = ", ".join(
            f"{key.rpartition('.')[2]} {_short(value)}" for key, value in record.search["chosen"].items()
        )
        ((metric, value),) = record.search["metrics"].items()
        known = quantity(metric)
        judged = f"{known.plain} {known.text(value)} {_judged_on(metric)}"
        at_end = "; the end of what was tried" if _at_end(record) else ""
        notes.append(f"{record.name}: {chosen}, the best of {_told_trials(record)} ({judged}){at_end}.")
    return notes


def _short(value: Any) -> str:
    return str(float(f"{value:.4g}") if isinstance(value, float) else value)


def _judged_on(metric: str) -> str:
    """Trials draw other samples than the evaluation, but every validation is on the same images."""
    return "on the table's own validation" if metric.startswith("val/") else "on other samples than the table's"


def _complete(record: Record) -> list[Mapping[str, Any]]:
    """The trials that were measured; the others failed by their values, or were ended early."""
    return [trial for trial in record.search["trials"] if trial["outcome"] == "complete"]


def _told_trials(record: Record) -> str:
    """ "12 trials", or "4 completed trials (6 pruned, 2 failed)"."""
    outcomes = Counter(trial["outcome"] for trial in record.search["trials"])
    others = ", ".join(f"{outcomes[name]} {name}" for name in ("pruned", "failed") if outcomes[name])
    return f"{outcomes['complete']} completed trials ({others})" if others else f"{outcomes['complete']} trials"


def _at_end(record: Record) -> bool:
    """Whether a chosen number is the smallest or the largest that was measured: a better one may lie beyond."""
    for key, value in record.search["chosen"].items():
        tried = [trial["params"][key] for trial in _complete(record)]
        if isinstance(value, int | float) and len(set(tried)) > 1 and value in (min(tried), max(tried)):
            return True
    return False


def _summary(records: Sequence[Record]) -> str:
    keys = dict.fromkeys(key for record in records for key in record.search["chosen"])
    metrics = dict.fromkeys(
        f"{quantity(name).plain} {_judged_on(name)}" for record in records for name in record.search["metrics"]
    )
    counts = sorted({len(_complete(record)) for record in records})
    trials = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lost = sum(len(record.search["trials"]) - len(_complete(record)) for record in records)
    trials = f"{trials} completed trials ({lost} more failed or were pruned)" if lost else f"{trials} trials"
    names = ", ".join(quantity(f"{CHOSEN}{key}").plain.removesuffix(" chosen") for key in keys)
    ends = sum(_at_end(record) for record in records)
    beyond = f" {ends} of {len(records)} chose the end of what was tried." if ends else ""
    return f"{names}: each row's own best of {trials}, judged by {', '.join(metrics)}.{beyond}"
