"""Why jobs ended that the controller has forgotten: asked of the accounting, where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import slurm
from sweeps import views
from sweeps.planner import plan
from sweeps.registry import register
from sweeps.slurm_commands import sbatch, scancel
from sweeps.submissions import Submission, write_submissions

SCRIPT = """#!/bin/sh
echo "$@" >> {log}
{body}
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a stand-in for one of Slurm's commands on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name, empty in {"_cache": (-1e9, None), "_ended": {}, "_not_ended": {}}.items():
        monkeypatch.setattr(slurm, name, empty)

    def make(name: str, body: str) -> None:
        (folder / name).write_text(SCRIPT.format(log=tmp_path / f"{name}.log", body=body))
        (folder / name).chmod(0o755)

    return make


def test_the_accounting_tells_how_forgotten_jobs_ended(
    make_sweep: Callable[..., str], command: Callable[[str, str], None], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command("squeue", "exit 0")
    command("sacct", "printf '7_0|OUT_OF_MEMORY\\n7_1|CANCELLED by 0\\n7_2|NODE_FAIL\\n'")
    path = make_sweep()
    planned = plan(path)
    register(planned)
    write_submissions(planned.folder, [Submission("u", "7", [group.id for group in planned.groups()], time.time())])
    found = [(s.state, s.status.cause) for s in plan(path).states().values()]
    assert found == [("failed", "oom"), ("missing", ""), ("missing", "killed")]
    asked = (tmp_path / "sacct.log").read_text()
    assert "--jobs=7_0,7_1,7_2" in asked and len(asked.splitlines()) == 1, "one call for all"
    assert views.status(path) == 1
    assert "resources.memory" in capsys.readouterr().out


def test_without_an_accounting_nothing_is_claimed(
    make_sweep: Callable[..., str], command: Callable[[str, str], None]
) -> None:
    command("squeue", "exit 0")
    command("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    path = make_sweep()
    planned = plan(path)
    register(planned)
    write_submissions(planned.folder, [Submission("u", "7", [group.id for group in planned.groups()], time.time())])
    assert {state.describe() for state in plan(path).states().values()} == {"missing"}


def test_the_accounting_is_asked_again_only_about_what_it_did_not_know(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("sacct", "printf '7_0|COMPLETED\\n7_1|RUNNING\\n'")
    asked = tmp_path / "sacct.log"
    for _ in range(5):
        assert slurm.ended_jobs(["7_0", "7_1", "7_2"]) == {"7_0": "COMPLETED"}
    assert len(asked.read_text().splitlines()) == 1
    command("sacct", "printf '7_0|FAILED\\n7_1|TIMEOUT\\n'")
    ended = slurm.ended_jobs(["7_0", "7_1"], max_age=0.0)
    assert ended == {"7_0": "COMPLETED", "7_1": "TIMEOUT"}, "what has ended stays so"
    assert asked.read_text().splitlines()[-1].endswith("--jobs=7_1")


def test_very_many_jobs_are_asked_for_in_words_that_a_command_may_have(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    command("sacct", "for word in \"$@\"; do case $word in --jobs=*) echo ${word##*,}'|TIMEOUT';; esac; done")
    jobs = [f"10000000_{task}" for task in range(12_000)]  # 200 KB
    assert slurm.ended_jobs(jobs) == dict.fromkeys([sorted(jobs)[i] for i in (4_999, 9_999, 11_999)], "TIMEOUT")


def test_what_this_process_submits_or_cancels_is_seen_at_once(
    command: Callable[[str, str], None], tmp_path: Path
) -> None:
    queue, script = tmp_path / "queue", tmp_path / "script"
    queue.touch()
    script.touch()
    command("squeue", f"cat {queue}")
    command("sbatch", f"echo '8|PENDING|Priority' > {queue}; echo 8")
    command("scancel", f"echo '8|CANCELLED|None' > {queue}")
    assert slurm.job_states() == {}
    assert sbatch(script) == "8"
    assert slurm.job_states() == {"8": slurm.JobState("PENDING", "Priority")}
    scancel(["8"])
    assert slurm.job_states() == {"8": slurm.JobState("CANCELLED", "None")}
