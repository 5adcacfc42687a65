"""One measurement at a time on a machine: two that overlap would time each other. And signs of other work there."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.benchmarks.bench import Row
from experiments.claims import Busy, Claim, acquire, mtime, pulse

log = logging.getLogger("ablate")
STEADY = 0.3
"""Most that a baseline's times spread (interquartile range over median) where nothing else runs."""
LATELY_S = 300.0
"""So long after a benchmark the load average still holds its threads."""


@contextmanager
def alone(root: Path) -> Iterator[float | None]:
    """Wait until no other benchmark under this root measures on this machine, then keep others out.

    Jobs that see different GPUs of one machine do not wait for each other.

    Yields:
        The load average before; None where it cannot tell other work from a benchmark that ended just now.
    """
    places = re.sub(r"[^\w.-]", "_", "-".join(filter(None, (platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES")))))
    folder = root / "benchmarks" / ".machines" / places
    heartbeat = folder / "heartbeat"
    claim = _wait_for(folder, heartbeat)
    try:
        load = None if time.time() - mtime(heartbeat) < LATELY_S else load_average()
        heartbeat.touch()
        with pulse(claim, heartbeat):  # a container of the same host name cannot look up this process
            yield load
    finally:
        with suppress(OSError):
            heartbeat.touch()  # for the next one's `load`
        claim.release()


def load_average() -> float | None:
    """Threads that ran or waited to run on this machine, averaged over the last minute; None where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def signs_of_other_work(load: float | None, threads: int, baselines: list[Row]) -> list[str]:
    """Sentences that warn of times that other work may have lengthened; none where all was quiet.

    Args:
        load: the load average just before, None where it is not known; with the benchmark's threads it should not
            exceed the machine's processors.
        baselines: rows that ratios are relative to.
    """
    warnings, processors = [], os.cpu_count() or 1
    if load is not None and load + threads > processors + 0.5:
        warnings.append(
            f"WARNING: other work ran in the minute before: a load of {load:.1f} on {processors} processors, of which "
            f"this needs {threads}"
        )
    worst = max(baselines, key=lambda row: row.spread, default=None)
    if worst and worst.spread > STEADY:
        warnings.append(
            f"WARNING: the baseline's times spread by {worst.spread:.0%} ({worst.case}, {worst.phase}), as beside "
            "other work; measure again when the machine is quiet"
        )
    return warnings


def _wait_for(folder: Path, heartbeat: Path) -> Claim:
    told = False
    while True:
        try:
            return acquire(folder, heartbeat)
        except Busy as busy:
            if not told:
                log.info("%s measures on this machine; waiting", busy.owner)
            told = True
            time.sleep(0.5)
