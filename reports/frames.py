"""Records as a pandas DataFrame."""

from __future__ import annotations

import pandas

from reports.subject import Subject


def to_frame(subject: Subject) -> pandas.DataFrame:
    """One row a cell; see `reports.frame` for the columns."""
    names = dict.fromkeys(name for record in subject.records for name in record.metrics)
    axes = dict.fromkeys(axis for record in subject.records for axis in record.labels)
    lines = [
        {
            **{axis: record.labels.get(axis) for axis in axes},
            "seed": record.seed,
            "run_id": record.run_id,
            "eval_id": record.eval_id,
            "reason": record.reason,
            **{name: record.metrics.get(name) for name in names},
        }
        for record in subject.records
    ]
    result = pandas.DataFrame(lines)
    for axis in axes:
        order = list(dict.fromkeys(r.labels[axis] for r in subject.records if axis in r.labels))
        result[axis] = pandas.Categorical(result[axis], order, ordered=True)
    return result
