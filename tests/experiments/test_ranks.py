"""Of the processes of one distributed run only the first claims and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.ranks import check_world, is_leader
from experiments.store import Run

LEADER = """
import subprocess, sys
from pathlib import Path
from experiments.store import Run
run = Run(Path(sys.argv[1]))
with run.claim() as mine:
    command = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
    other = subprocess.Popen(command, env={"LOCAL_RANK": "1"}, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"wrote nothing\\n"
    run.write_result({"step": 1, "max_steps": 1, "metrics": {"by": 0}})
sys.exit(other.wait())
"""
FOLLOWER = """
import sys
from pathlib import Path
from experiments.store import Run
run = Run(Path(sys.argv[1]))
with run.claim() as mine:
    assert mine
    run.update(phase="train", step=99)
    run.write_result({"step": 1, "max_steps": 1, "metrics": {"by": 1}})
    assert not run.result_path.exists()
    print("wrote nothing", flush=True)
assert run.is_done()
with run.evaluation("e").claim() as mine:
    assert not mine, "an evaluation is for one process"
"""


def test_other_ranks_go_along_and_write_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEADER, str(tmp_path), FOLLOWER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path)
    result = run.result()
    assert result and result["metrics"] == {"by": 0}
    assert run.attempts == 1 and run.inspect().state == "done" and run.status().step == 0


@pytest.mark.parametrize(
    ("variables", "leads"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "3"}, False),
        ({"SLURM_PROCID": "1"}, True),
        ({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}, False),
    ],
)
def test_ranks(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], leads: bool) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_leader() is leads


def test_another_number_of_processes_than_the_run_is_made_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    check_world(4)  # alone: Lightning starts the others
    monkeypatch.setenv("SLURM_NTASKS", "2")
    check_world(1)  # a batch script, not something that srun started
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    check_world(2)
    with pytest.raises(UserError, match="2 processes were started together, but .* = 1"):
        check_world(1)
