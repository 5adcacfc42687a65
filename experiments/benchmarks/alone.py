"""One measurement at a time on a machine: two that overlap would time each other."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.claims import Busy, Claim, acquire

log = logging.getLogger("ablate")


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Wait until no other benchmark under this root measures on this machine, then keep others out.

    Jobs that see different GPUs of one machine do not wait for each other.
    """
    places = re.sub(r"[^\w.-]", "_", "-".join(filter(None, (platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES")))))
    folder = root / "benchmarks" / ".machines" / places
    claim = _wait_for(folder)
    try:
        yield
    finally:
        claim.release()


def _wait_for(folder: Path) -> Claim:
    told = False
    while True:
        try:
            return acquire(folder, folder / "heartbeat")
        except Busy as busy:
            if not told:
                log.info("%s measures on this machine; waiting", busy.owner)
            told = True
            time.sleep(0.5)
