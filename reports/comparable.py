"""Which rows may be held against each other: those whose numbers were measured in the same way."""

from __future__ import annotations

from experiments.validation import VALIDATION_TASK, is_validation
from reports.aggregate import Row
from reports.guard import STEPS
from reports.quantities import EXACT, is_cost

OF_TRAINING = frozenset({"data.fingerprint", "tokenizer.fingerprint", "trainer.max_steps"})
OF_VALIDATION = OF_TRAINING | VALIDATION_TASK
OF_SAMPLES = OF_TRAINING | {"evaluation.num_samples", "reference images", "feature extractor", "resize", STEPS}
OF_COSTS = frozenset({"hardware", "threads", "trainer.precision", STEPS})


def set_apart(row: Row, metric: str) -> dict[str, str]:
    """What of `Row.flags` concerns the measurement of one quantity, and of validations `Row.task`: fact -> the
    difference in words.

    Another code version or kernel is said below the table and bars no comparison; an N or a reference of its own moves
    a Fréchet distance by more than the settings under study do.
    """
    if metric in EXACT:
        return {}
    if is_validation(metric):
        return {**{fact: text for fact, text in row.flags.items() if fact in OF_VALIDATION}, **row.task}
    facts = OF_COSTS if is_cost(metric) else OF_TRAINING if metric.startswith("train/") else OF_SAMPLES
    return {fact: text for fact, text in row.flags.items() if fact in facts}


def incomparable(left: Row, right: Row, metric: str) -> str:
    """Why two rows may not be compared on a quantity; "" where they may."""
    a, b = set_apart(left, metric), set_apart(right, metric)
    differing = [fact for fact in a | b if a.get(fact) != b.get(fact)]
    return "; ".join(dict.fromkeys(side[fact] for fact in differing for side in (a, b) if fact in side))
