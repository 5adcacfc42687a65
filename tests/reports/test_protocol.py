"""What a table says of how its numbers were computed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports.protocol import protocol_notes
from tests.reports import fakes


@pytest.mark.parametrize(
    ("asked", "trained", "sampled", "said"),
    [
        ("bf16", "fp32", "fp32", "Computed in float32, as"),
        ("bf16", "bf16", "fp32", "Computed in float32 in part, as"),
        ("bf16", "bf16", "bf16", ""),
        ("fp32", "fp32", "fp32", ""),
    ],
)
def test_float32_in_place_of_bfloat16_is_said(
    tmp_path: Path, asked: str, trained: str, sampled: str, said: str
) -> None:
    precisions = {"run__provenance__precision": trained, "evaluation__provenance__precision": sampled}
    for cell in fakes.cells_of():
        fakes.write_run(tmp_path, cell, **precisions, config__trainer__precision=asked)
    notes = [text for _, text in fakes.subject(tmp_path).table.notes if "float32" in text]
    assert len(notes) == bool(said) and all(note.startswith(said) for note in notes)


@pytest.mark.parametrize(("metric", "said"), [("images_per_s", "random weights, without decoding, on"), ("flops", "")])
def test_timings_of_sampling_say_that_nothing_was_decoded(metric: str, said: str) -> None:
    note = _timing_note({"threads": 2}, metric)
    assert said in note and ("decoding" in note) == bool(said)


@pytest.mark.parametrize(
    ("rounds", "said"), [({"a": 6, "b": 6}, "of 6 repetitions"), ({"a": 6, "b": 9}, "of 6 to 9 rep")]
)
def test_a_range_of_repetitions_has_two_ends(rounds: dict[str, int], said: str) -> None:
    assert said in _timing_note({"threads": 2, "rounds": rounds})


def _timing_note(protocol: dict[str, Any], metric: str = "flops") -> str:
    record = SimpleNamespace(run_result={}, protocol=protocol, benchmark=object(), metrics={metric: 1.0})
    record.evaluation_result, record.config, record.labels, record.seed = {}, {}, {}, 0
    (note,) = [note for note in protocol_notes([record], ()) if note.startswith("Medians")]
    return note
