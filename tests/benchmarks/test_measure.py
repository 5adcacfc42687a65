"""How contenders take turns, and what is told of their times."""

from functools import partial

import pytest
import torch

from experiments.benchmarks.bench import Row
from experiments.benchmarks.measure import FEWEST_IN_A_ROW, FEWEST_ROUNDS, IN_A_ROW, MOST_REPEATS, in_a_row, in_turns


def test_every_round_begins_with_another_contender() -> None:
    order: list[str] = []
    in_turns({name: partial(order.append, name) for name in "abc"}, 0)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * (FEWEST_ROUNDS // 3)


def test_distance_to_the_floor_is_that_of_the_fastest_round() -> None:
    row = Row("case", "forward", "ours", median_ms=4, fastest_ms=3, spread=0.1, ratio=1, rounds=3, floor_ms=2)
    assert row.over_floor == 1.5


@pytest.mark.parametrize(("seconds", "calls"), [(60.0, IN_A_ROW), (0.0, FEWEST_IN_A_ROW)])
def test_calls_in_a_row_leave_out_the_first(monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int) -> None:
    taken = iter([9.0] + [1.0] * IN_A_ROW)
    monkeypatch.setattr("experiments.benchmarks.measure.milliseconds", lambda call, repeats=1: next(taken))
    assert in_a_row(lambda: None, seconds) == [1.0] * calls


def test_a_gpu_is_given_short_calls_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    times = in_turns({"short": lambda: calls.append(None)}, 0)["short"]
    assert len(times) == FEWEST_ROUNDS
    assert len(calls) == 1 + FEWEST_ROUNDS * MOST_REPEATS
    calls.clear()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    in_turns({"short": lambda: calls.append(None)}, 0)
    assert len(calls) == FEWEST_ROUNDS
