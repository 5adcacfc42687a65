"""Contenders in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from experiments.benchmarks.apart import OwnProcess
from experiments.benchmarks.measure import FEWEST_ROUNDS, interleave
from experiments.errors import UserError
from experiments.owners import process_start


def _sign(path: Path, who: str, sleep: float) -> None:
    """A call that leaves its mark and takes a while."""
    with path.open("a") as file:
        file.write(f"{who} {os.getpid()}\n")
    time.sleep(sleep)


@pytest.fixture(scope="module")
def process() -> Iterator[OwnProcess]:
    with OwnProcess("mambapy 1.2.0") as process:
        yield process


def test_a_contender_in_its_own_process_takes_turns_with_the_others(process: OwnProcess, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    process.prepare(partial(partial, _sign, marks, "discarded", 0.0))
    peer = process.prepare(partial(partial, _sign, marks, "peer", 0.01))
    calls = {"ours": partial(_sign, marks, "ours", 0.0), "peer": peer}
    ours, theirs = interleave("case", "forward", calls, baseline="ours", seconds=0)
    lines = [line.split() for line in marks.read_text().splitlines()]
    timed = [who for who, _ in lines][-2 * FEWEST_ROUNDS :]
    assert timed == ["ours", "peer", "peer", "ours"] * (FEWEST_ROUNDS // 2)
    (child,) = {pid for who, pid in lines if who == "peer"}
    assert child != str(os.getpid())
    assert theirs.rounds == FEWEST_ROUNDS and theirs.median_ms >= 10 and theirs.peak_bytes is not None
    assert ours.ratio == 1 and theirs.ratio > 1


def _fail() -> None:
    raise ValueError("no such shape\nand more")


def test_what_fails_in_another_process_is_one_sentence(process: OwnProcess) -> None:
    process.prepare(partial(partial, _fail))
    with pytest.raises(UserError, match=r"^mambapy 1\.2\.0 failed in a process of its own: ValueError: no such shape$"):
        process.milliseconds()
    process.prepare(partial(partial, os._exit, 3))  # the last test that uses it
    with pytest.raises(UserError, match=r"The process of mambapy 1\.2\.0 ended with exit code 3"):
        process.milliseconds()


PARENT = """
import os, signal, sys, time
from functools import partial
from experiments.benchmarks.apart import OwnProcess
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background of a shell ignore
    with OwnProcess("peer") as process:
        process.prepare(partial(partial, time.sleep, 60))
        print(process._process.pid, flush=True)
        process.milliseconds()
"""


def test_the_process_of_a_contender_ends_on_ctrl_c(tmp_path: Path) -> None:
    """In the middle of a call; the signal reaches the whole group, as a terminal sends it."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=paths,
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert process_start(child)
        os.killpg(parent.pid, signal.SIGINT)
        parent.wait(timeout=20)
    assert not process_start(child)
