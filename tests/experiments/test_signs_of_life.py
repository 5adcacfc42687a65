"""Who counts as alive although little is heard of them: silent owners, and jobs that the queue does not show."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments import claims, slurm
from experiments.claims import Busy, acquire, pulse
from experiments.owners import STALE_AFTER
from experiments.work import Work
from tests.experiments.conftest import elsewhere

SQUEUE = """#!/bin/sh
echo "$@" >> {asked}
cat {queue}
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stand-in for squeue answers; it notes in `asked` how it was called."""
    answer, command = tmp_path / "queue", tmp_path / "bin" / "squeue"
    answer.touch()
    command.parent.mkdir()
    command.write_text(SQUEUE.format(asked=tmp_path / "asked", queue=answer))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "_cache", (-1e9, None))
    return answer


def test_jobs_in_hidden_partitions_are_asked_for(queue: Path) -> None:
    slurm.job_states()
    assert "--all" in queue.with_name("asked").read_text().split()


def test_a_job_that_began_after_the_answer_is_alive(queue: Path) -> None:
    assert slurm.job_states() == {}
    queue.write_text("9|RUNNING|None\n")
    assert elsewhere(job="9").alive(silent=0.0)
    assert not elsewhere(job="10").alive(silent=STALE_AFTER / 2), "what was silent since before the answer is gone"
    assert len(queue.with_name("asked").read_text().splitlines()) == 2


def test_a_job_of_another_user_may_be_hidden(queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "cluster_name", lambda: "here")
    theirs, ours = (elsewhere(job="9", cluster="here", **owner) for owner in ({"user": "colleague"}, {}))
    assert theirs.alive(silent=2.0) and not theirs.alive(silent=STALE_AFTER + 1)
    assert not ours.alive(silent=2.0)
    queue.write_text("9|FAILED|None\n")
    slurm.forget_states()
    assert not theirs.alive(silent=2.0), "not hidden"


def beats(path: Path) -> bool:
    """Whether the time of a file is renewed."""
    os.utime(path, (0, 0))
    until = time.monotonic() + 60
    while not path.stat().st_mtime and time.monotonic() < until:
        time.sleep(0.005)
    return path.stat().st_mtime > 0


def pulses() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pulse")]


def test_an_owner_with_nothing_to_report_still_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PULSE", 0.01)
    work = Work(tmp_path)
    for error in (None, ValueError, KeyboardInterrupt):
        try:
            with work.claim() as mine:
                assert mine and len(pulses()) == 1 and beats(work.status_path)
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        assert not pulses()


def test_who_lost_the_claim_gives_no_more_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PULSE", 0.01)
    heartbeat = tmp_path / "status.json"
    heartbeat.touch()
    with pulse(acquire(tmp_path, heartbeat), heartbeat):
        (thread,) = pulses()
        (tmp_path / "claims" / "000002.json").write_text("{}")
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("silent", [0.0, STALE_AFTER + 60])
def test_a_pulse_counts_wherever_life_is_asked_for(tmp_path: Path, silent: float) -> None:
    work = Work(tmp_path)
    long_ago = time.time() - 10 * STALE_AFTER
    (tmp_path / "claims").mkdir()
    claim = tmp_path / "claims" / "000001.json"
    claim.write_text(json.dumps(asdict(elsewhere(claimed_at=long_ago))))
    work.status_path.write_text(json.dumps({"state": "running", "updated_at": long_ago}))
    os.utime(claim, (long_ago, long_ago))
    os.utime(work.status_path, (time.time() - silent,) * 2)
    assert work.inspect().state == ("interrupted" if silent else "running")
    if silent:
        acquire(tmp_path, work.status_path)
    else:
        with pytest.raises(Busy):
            acquire(tmp_path, work.status_path)
