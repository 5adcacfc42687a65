"""Parts of the images of an evaluation: who draws which, and what is gathered in the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.shards import Shards, parse_share


def test_workers_meet_without_drawing_twice(tmp_path: Path, small_parts: None) -> None:
    drawn: list[int] = []

    def draw(span: range) -> tuple[np.ndarray, float]:
        drawn.append(span.start)
        return np.full((len(span), 2, 2, 3), span.start, np.uint8), 0.5

    parts = Shards(tmp_path, 40)
    parts.fill(draw, 0, 2, alone=True)
    assert drawn == [0, 16, 32]
    parts.fill(draw, 1, 2)
    assert drawn == [0, 16, 32, 8, 24] and not parts.missing()
    images, seconds = parts.gather()
    assert images[:, 0, 0, 0].tolist() == [i // 8 * 8 for i in range(40)] and seconds == 2.5
    np.savez(parts.path(range(8)), images=images[:8], seconds=0.5)  # as older versions wrote them
    assert parts.gather()[1] == 2.5 and parts.sampled_by() == [{"images": 40}]
    parts.path(range(16, 24)).unlink()
    parts.fill(draw, 1, 2)
    assert drawn[5:] == [16], "a worker that is through helps with what is missing"
    parts.remove()
    parts.fill(draw, 0, 2, needless=lambda: len(drawn) > 6)
    assert drawn[6:] == [0], "the others were gathered meanwhile"


@pytest.mark.parametrize("left", [0, 0.5])
def test_a_damaged_part_is_one_sentence(tmp_path: Path, small_parts: None, left: float) -> None:
    shards = Shards(tmp_path, 22)
    shards.fill(lambda span: (np.zeros((len(span), 4, 4, 3), np.uint8), 0.0))
    path = shards.path(shards.spans[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    for read in (shards.gather, shards.sampled_by):
        with pytest.raises(UserError, match=f"Cannot read {path} .*; remove it and run the same command again"):
            read()


@pytest.mark.parametrize("word", ["3", "2/2", "a/b", "-1/2", "1/0"])
def test_shares_are_written_i_of_k(word: str) -> None:
    assert parse_share("0/8") == (0, 8)
    with pytest.raises(UserError, match="I/K"):
        parse_share(word)
