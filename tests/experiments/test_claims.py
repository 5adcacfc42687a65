"""Claims: exactly one owner, whatever dies and whoever races."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from experiments import claims, owners, slurm, work
from experiments.claims import Busy, acquire, newest_claim
from experiments.errors import UserError
from experiments.owners import PULSE, STALE_AFTER, Owner, process_start
from experiments.slurm import JobState
from tests.experiments.conftest import elsewhere

HOLDER = """
import sys, time
from pathlib import Path
from experiments.claims import acquire
acquire(Path(sys.argv[1]), Path(sys.argv[1]) / "status.json")
print("mine", flush=True)
time.sleep(60)
"""
RACER = """
import sys, time
from pathlib import Path
from experiments.claims import Busy, acquire
folder = Path(sys.argv[1])
print("ready", flush=True)
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    claim = acquire(folder, folder / "status.json")
except Busy:
    print("busy", flush=True)
else:
    print("mine", claim.generation, flush=True)
sys.stdin.read()  # alive until all have tried: a dead owner would be succeeded
"""


def claim_of(folder: Path, owner: Owner, age: float = 0.0) -> None:
    """Write a claim as another process would have, `age` seconds ago."""
    (folder / "claims").mkdir(parents=True)
    path = folder / "claims" / "000001.json"
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)


def test_release_hands_over_and_counts_attempts(tmp_path: Path) -> None:
    first = acquire(tmp_path, tmp_path / "status.json")
    with pytest.raises(Busy, match=str(os.getpid())):
        acquire(tmp_path, tmp_path / "status.json")
    first.release()
    second = acquire(tmp_path, tmp_path / "status.json")
    assert (first.generation, second.generation) == (1, 2)
    assert second.holds() and not first.holds()
    assert not list((tmp_path / "claims").glob(".claim*"))


def test_killed_owner_is_succeeded_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline() == b"mine\n"
    with pytest.raises(Busy):
        acquire(tmp_path, tmp_path / "status.json")
    holder.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # not waited for: a zombie counts as dead, too
    assert acquire(tmp_path, tmp_path / "status.json").generation == 2
    holder.wait()


def test_reused_pid_is_not_the_owner(tmp_path: Path) -> None:
    claim_of(tmp_path, replace(Owner.here(), started="12345"))
    assert acquire(tmp_path, tmp_path / "status.json").generation == 2


@pytest.mark.parametrize("dead_owner", [False, True])
def test_of_many_racers_exactly_one_wins(tmp_path: Path, dead_owner: bool) -> None:
    if dead_owner:
        claim_of(tmp_path, replace(Owner.here(), started="12345"))
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)], stdin=PIPE, stdout=PIPE, text=True)
        for _ in range(8)
    ]

    def lines() -> list[str]:
        return [racer.stdout.readline().strip() for racer in racers if racer.stdout]

    ready = lines()
    (tmp_path / "go").touch()
    outcomes = lines()
    for racer in racers:
        racer.communicate()
    assert ready == ["ready"] * 8
    assert sorted(outcomes) == ["busy"] * 7 + ["mine 2" if dead_owner else "mine 1"]


def test_owner_elsewhere_is_believed_until_silent_for_long(tmp_path: Path) -> None:
    claim_of(tmp_path, elsewhere(), age=STALE_AFTER + 60)
    heartbeat = tmp_path / "status.json"
    heartbeat.write_text("{}")
    with pytest.raises(Busy, match="another-host"):
        acquire(tmp_path, heartbeat)
    os.utime(heartbeat, (time.time() - STALE_AFTER - 1,) * 2)
    assert acquire(tmp_path, heartbeat).generation == 2


@pytest.mark.parametrize(
    ("state", "alive"), [("RUNNING", True), ("COMPLETING", True), ("PENDING", False), ("FAILED", False), (None, False)]
)
def test_owner_in_a_job_lives_as_long_as_slurm_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, alive: bool
) -> None:
    monkeypatch.setattr(slurm, "job_states", lambda: {"7_1": JobState(state, "None")} if state else {})
    monkeypatch.setattr(slurm, "cluster_name", lambda: "here")
    claim_of(tmp_path, elsewhere(job="7_1", cluster="here"), age=0 if not alive else 10 * STALE_AFTER)
    newest = newest_claim(tmp_path)
    assert newest and newest.alive() is alive


def test_a_job_of_another_cluster_is_believed_until_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job here may have its number. Where the cluster is not known, one that is not listed may be one."""
    monkeypatch.setattr(slurm, "cluster_name", lambda: "here")
    for jobs in ({}, {"7": JobState("FAILED", "")}, {"7": JobState("RUNNING", "")}):
        monkeypatch.setattr(slurm, "job_states", lambda jobs=jobs: jobs)
        owner = elsewhere(job="7", cluster="there")
        assert owner.alive(silent=STALE_AFTER - 1) and not owner.alive(silent=STALE_AFTER + 1)
    monkeypatch.setattr(slurm, "job_states", lambda: {})
    assert elsewhere(job="7").alive(silent=PULSE) and not elsewhere(job="7").alive(silent=3 * PULSE)


def test_an_owner_in_a_job_names_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "there")
    slurm.cluster_name.cache_clear()
    assert Owner.here().cluster == "there"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert Owner.here().cluster == ""
    slurm.cluster_name.cache_clear()


def test_unreachable_slurm_means_unknown_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "job_states", lambda: None)
    assert elsewhere(job="7").alive(silent=1.0)
    assert not elsewhere(job="7").alive(silent=STALE_AFTER + 1)


def test_earlier_start_of_my_own_requeued_job_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "job_states", lambda: {"7": JobState("RUNNING", "None")})
    owner = elsewhere(job="7", restarts=0)
    assert owner.alive(silent=0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not owner.alive(silent=0)


def test_damaged_claim_is_judged_by_its_age(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "000003.json"
    path.write_text('{"host": ')
    with pytest.raises(Busy):
        acquire(tmp_path, tmp_path / "status.json")
    os.utime(path, (time.time() - STALE_AFTER - 1,) * 2)
    assert acquire(tmp_path, tmp_path / "status.json").generation == 4


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(claims.os, "link", refuse)
    assert acquire(tmp_path, tmp_path / "status.json").generation == 1
    with pytest.raises(Busy):
        acquire(tmp_path, tmp_path / "status.json")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="runtime.root"):
        acquire(tmp_path, tmp_path / "status.json")


def test_a_colleagues_process_that_proc_hides_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    me = replace(Owner.here(), job="")
    colleague = replace(me, user="colleague", pid=2**22 + 1)
    monkeypatch.setattr(owners, "_sees_others", lambda: True)
    assert not colleague.alive(silent=1.0)
    monkeypatch.setattr(owners, "_sees_others", lambda: False)
    assert colleague.alive(silent=1.0) and not colleague.alive(silent=STALE_AFTER + 1)
    assert me.alive(silent=math.inf)


def test_process_start_tells_processes_apart() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) != ""
    assert process_start(2**22 + 1) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_ends_while_it_is_looked_at_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    opened = Path.open

    def ends_meanwhile(path: Path, *args: Any, **options: Any) -> Any:
        stream = opened(path, *args, **options)
        child.communicate(b"\n")
        return stream

    assert process_start(child.pid)
    monkeypatch.setattr(Path, "open", ends_meanwhile)
    assert process_start(child.pid) == ""


class Clock:
    """Stands for the module `time`: sleeping takes no time. After `end` seconds the newest claim is given up."""

    def __init__(self, claim: claims.Claim, end: float):
        self.claim, self.end, self.now, self.time = claim, end, 0.0, time.time

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.end and not self.claim.path("released").exists():
            self.claim.release()


def test_waiting_for_a_job_asks_slurm_seldom_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, tickets = [], []

    def states() -> dict[str, JobState]:
        asked.append(clock.now)
        return {"9": JobState("RUNNING", "None")}

    def ticket(**options: Any) -> tuple[int, str]:
        tickets.append(clock.now)
        return mkstemp(**options)

    mkstemp = claims.tempfile.mkstemp
    claim_of(tmp_path, elsewhere(job="9"))
    owned = newest_claim(tmp_path)
    assert owned
    clock = Clock(owned, 600.0)
    monkeypatch.setattr(work, "time", clock)
    monkeypatch.setattr(slurm, "job_states", states)
    monkeypatch.setattr(claims.tempfile, "mkstemp", ticket)
    with work.Work(tmp_path).claim(wait=True) as mine:
        assert mine and tickets and min(tickets) == 600.0, "as soon as it is given up, and nothing before"
    assert len(asked) < 600 / 20
    waited = [later - earlier for earlier, later in pairwise([*asked, 600.0])]
    assert max(waited) <= work.LONGEST_PAUSE + 1, "a killed owner, who gives nothing up, is found out soon, too"
