"""What attempts hand on: device time of all of them, and an end to failures that repeat themselves."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.attempts import GivenUp
from experiments.store import Run, RunStore
from sweeps.state import CellState
from tests.experiments.configs import small_config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).prepare(small_config())


def attempt(run: Run, step: int, error: BaseException | None = None) -> None:
    """One attempt of a new process: gets to a step, then ends with an error, or is killed without a word."""
    mine = Run(run.folder)
    with suppress(type(error) if error else KeyboardInterrupt):
        with mine.claim(most_repeats=3):
            mine.update(phase=f"train {step}", step=step, max_steps=10)
            if error:
                raise error
            raise KeyboardInterrupt
    if error is None:
        path = run.status_path
        path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))


def test_equal_failures_end_a_run_with_its_reason(run: Run) -> None:
    for _ in range(3):
        attempt(run, 4, FloatingPointError("The loss became nan."))
    for _ in range(3):  # whoever starts it, and however often
        with pytest.raises(GivenUp, match="failed 3 times in the same way .not a number. and never got beyond step 4"):
            with Run(run.folder).claim(most_repeats=3):
                pytest.fail("begun again")
    status = run.inspect()
    assert (status.state, status.cause) == ("failed", "repeated") and not CellState(status, "training").is_open
    run.clear_failure()
    with Run(run.folder).claim(most_repeats=3) as mine:
        assert mine, "retry begins afresh"


def test_work_that_was_given_up_goes_on_counting_once_more_failures_are_allowed(run: Run) -> None:
    for _ in range(3):
        attempt(run, 4, FloatingPointError("The loss became nan."))
    attempt(run, 0, GivenUp("said above"))
    with suppress(FloatingPointError), Run(run.folder).claim(most_repeats=4) as mine:
        assert mine
        raise FloatingPointError("The loss became nan.")
    with pytest.raises(GivenUp, match="failed 4 times"), Run(run.folder).claim(most_repeats=4):
        pytest.fail("begun again")


def test_retry_begins_counting_attempts_afresh(run: Run) -> None:
    assert run.attempts_since_forgiven == 0
    for _ in range(2):
        attempt(run, 4)
    assert (run.attempts, run.attempts_since_forgiven) == (2, 2)
    run.record_failure("other", "given up after 2 attempts")
    run.clear_failure()
    assert (run.attempts, run.attempts_since_forgiven) == (2, 0)
    attempt(run, 4)
    assert (run.attempts, run.attempts_since_forgiven) == (3, 1), "later attempts hand on when that was"
    run.status_path.write_text("{")
    assert run.attempts_since_forgiven == 3


@pytest.mark.parametrize("name", ["status.json", "result.json"])
@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"state": "dancing"}'])
def test_retry_removes_whatever_counts_as_damaged(run: Run, name: str, text: str) -> None:
    (run.folder / name).write_text(text)
    assert run.inspect().cause == "damaged"
    run.clear_failure()
    assert run.inspect().state == "missing"


def test_kills_without_a_word_count_and_progress_forgives(run: Run) -> None:
    attempt(run, 4)
    attempt(run, 3)
    attempt(run, 7)  # got further
    attempt(run, 7)
    attempt(run, 8, MemoryError("out of memory"))  # something else
    attempt(run, 8, MemoryError("out of memory"))
    with Run(run.folder).claim(most_repeats=3) as mine:
        assert mine and run.status().repeats == 2 and run.status().failed_as == "oom"
    attempt(run, 9)
    for _ in range(2):
        attempt(run, 9)
    with pytest.raises(GivenUp, match="killed"), Run(run.folder).claim(most_repeats=3):
        pytest.fail("begun again")


def test_zero_never_gives_up(run: Run) -> None:
    for _ in range(4):
        with pytest.raises(ValueError), Run(run.folder).claim(most_repeats=0):
            raise ValueError("wrong")
    assert run.inspect().cause == "bad_config"


def test_device_time_is_summed_over_attempts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("experiments.work.time.time", lambda: clock[0])
    for _ in range(2):
        mine = Run(run.folder)
        with suppress(KeyboardInterrupt), mine.claim(devices=4):
            clock[0] += 10
            raise KeyboardInterrupt
        clock[0] += 500  # nobody works
    with Run(run.folder).claim(devices=2) as mine:
        assert mine
    assert run.status().device_seconds == pytest.approx(80.0)
    last = Run(run.folder)
    with last.claim(devices=2):
        clock[0] += 5
        last.write_result({"step": 10, "max_steps": 10, "metrics": {}})
    result = run.result()
    assert result and result["device_seconds"] == pytest.approx(90.0)
