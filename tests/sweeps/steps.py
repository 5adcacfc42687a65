"""Steps that tests of planning and of the launchers share."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.owners import process_start
from sweeps import actions
from sweeps.planner import plan
from tests.sweeps.conftest import WORKER

SEARCHER = (sys.executable, str(Path(__file__).parents[1] / "experiments" / "search_worker.py"))
"""The worker tests/experiments/search_worker.py: a search with a formula in place of trainings."""
Make = Callable[..., str]
"""What the fixture `make_sweep` gives: name and changed keys -> path of a definition."""
LAUNCH = "import sys; from sweeps import actions; sys.exit(actions.run(sys.argv[1], jobs=2, worker=sys.argv[2:]))"
"""What `python -c` runs: `ablate run --jobs 2` of argument 1, a sweep, with the words behind it as its worker."""


def axis(name: str, key: str, *values: object, **more: object) -> dict:
    return {"name": name, "key": key, "values": list(values), **more}


WIDTH = axis("width", "generator.width", 32, 64)
SCHEMES = axis("scheme", "generator.hybrid_scheme", "serial_v1", "serial_v2")
GUIDANCE = axis("guidance", "sampler.guidance", 1.0, 3.0)


def run(path: str, **options: object) -> int:
    return actions.run(path, worker=WORKER, **{"jobs": 2, **options})


def states(path: str, scale: str = "demo") -> dict[str, str]:
    return {name: state.describe() for name, state in plan(path, scale).states().items()}


def launcher(path: str) -> subprocess.Popen[str]:
    """`ablate run` in a process of its own, which heeds Ctrl-C even if a script began the tests in its background."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, path, *WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once it holds; fail the test where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def worker_pids(tmp_path: Path) -> list[int]:
    """The processes that began a training, in order."""
    return [int(line.split()[1]) for line in (tmp_path / "trainings.txt").read_text().splitlines()]


def gone(pid: int) -> bool:
    """Whether there is no such process."""
    return process_start(pid) == ""
