"""How many steps equal training compute came to, in words."""

from __future__ import annotations

from sweeps.axes import matches
from sweeps.planner import Plan


def compute_notes(planned: Plan) -> list[str]:
    """The steps of the cells that follow another one's training FLOPs; [] where none do."""
    equal = planned.sweep.config.equal_compute
    if equal is None:
        return []
    steps: dict[str, dict[str, None]] = {}
    for cell in planned.cells:
        if matches(cell.labels, equal.when):
            name = " ".join(label for axis, label in cell.labels.items() if axis not in equal.when)
            steps.setdefault(name, {})[f"{cell.max_steps:,}"] = None  # several where a seed is amended
    where = " and ".join(f"{axis} {', '.join(labels)}" for axis, labels in equal.when.items())
    budget = " ".join(equal.to.values())
    listed = ", ".join(f"{name} {' or '.join(counts)}" for name, counts in steps.items())
    return [f"Steps at equal compute ({where}), from the training FLOPs of {budget}: {listed}."] if steps else []
