"""What searches chose, in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from reports.records import Record
from reports.searches import LISTED, search_notes
from sweeps.definition import load_sweep
from sweeps.varied import varied_keys


def record(
    seed: int, trials: int = 3, searched: bool = True, chosen: float = 2.0, others: Sequence[str] = ()
) -> Record:
    outcomes = [*["complete"] * trials, *others]
    tried = [
        {"params": {"sampler.guidance": 1.0 + number % 3 if outcome == "complete" else 9.0}, "outcome": outcome}
        for number, outcome in enumerate(outcomes)
    ]
    found = {"chosen": {"sampler.guidance": chosen}, "metrics": {"fd_efflite0": 99.94}, "trials": tried}
    return Record(f"seed={seed}", {"model": "a"}, {}, seed, "r", "e", search=found if searched else {})


def test_a_few_searches_are_told_one_by_one() -> None:
    notes = search_notes([record(0), record(1, searched=False)])
    said = "a seed0: guidance 2.0, the best of 3 trials (FD-EffLite0 99.9 on other samples than the table's)."
    assert notes == [said]
    (at_end,) = search_notes([record(0, chosen=3.0)])
    assert at_end.endswith("the table's); the end of what was tried.")


def test_values_are_told_to_four_digits_and_losses_are_not_of_samples() -> None:
    search = {"chosen": {"optim.lr": 0.00067010696, "model": "b"}, "metrics": {"val/loss": 6.2}, "trials": []}
    search["trials"] = [{"params": search["chosen"], "outcome": "complete"}] * 2
    records = [Record(f"seed={seed}", {"model": "a"}, {}, seed, "r", "e", search=search) for seed in range(LISTED + 1)]
    (note,) = search_notes(records[:1])
    assert (
        note == "a seed0: lr 0.0006701, model b, the best of 2 trials (Val loss 6.200 on the table's own validation)."
    )
    assert search_notes(records)[0].endswith("judged by Val loss on the table's own validation.")


def test_trials_that_failed_or_were_pruned_are_told_apart_and_reach_no_end() -> None:
    (note,) = search_notes([record(0, chosen=3.0, others=["failed", "pruned", "failed"])])
    assert "guidance 3.0, the best of 3 completed trials (1 pruned, 2 failed) (FD" in note
    assert note.endswith("; the end of what was tried."), "what failed at guidance 9 says nothing about it"
    (note,) = search_notes([*(record(seed) for seed in range(LISTED)), record(LISTED, others=["failed"])])
    assert "own best of 3 completed trials (1 more failed or were pruned), judged by" in note


@pytest.mark.parametrize(("last", "said"), [(3, "best of 3 trials"), (8, "best of 3 to 8 trials")])
def test_many_are_told_in_one_sentence(last: int, said: str) -> None:
    notes = search_notes([*(record(seed) for seed in range(LISTED)), record(LISTED, last)])
    assert len(notes) == 1 and said in notes[0] and notes[0].startswith("Guidance: each row's own")


def test_choices_at_the_end_of_what_was_tried_are_counted() -> None:
    (note,) = search_notes([*(record(seed) for seed in range(LISTED)), record(LISTED, chosen=3.0)])
    assert note.endswith(f"1 of {LISTED + 1} chose the end of what was tried.")


def test_what_the_cells_of_a_scale_bring_along_is_varied_and_what_the_scale_sets_for_all_is_not() -> None:
    keys = varied_keys(load_sweep("head-to-head"), "demo")
    assert {"generator.name", "optim.lr", "sampler.guidance", "trainer.max_steps", "generator.depth"} <= keys
    assert not keys & {"data.name", "data.styles", "trainer.batch_size", "evaluation.num_samples"}
    assert varied_keys(load_sweep("dimba-ratio"), "demo") == {"generator.attention_mamba_ratio"}
