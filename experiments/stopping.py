"""Ending in good order when a signal asks for it: the warning before a time limit, a pre-emption. Torch-free."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(SystemExit):
    """The work stopped because a signal asked for it; a training does so at a step boundary, after a checkpoint.

    The process ends with code 75, by which a job's script tells a run that can go on from one that failed.
    """

    def __init__(self, name: str):
        super().__init__(os.EX_TEMPFAIL)
        self.name = name


def with_hangup(*numbers: signal.Signals) -> tuple[signal.Signals, ...]:
    """`numbers` and SIGHUP, which a closed terminal sends, unless this process was begun to ignore it (`nohup`)."""
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*numbers, signal.SIGHUP)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside the block SIGTERM, SIGUSR1 and a closed terminal raise `Stopped`, once; main thread only. Training has
    handlers of its own, see `Checkpoints`."""
    process, stopped = os.getpid(), False

    def stop(number: int, frame: Any) -> None:
        nonlocal stopped
        # A forked process that reads batches leaves it to this one. Slurm may send a signal twice; the second one must
        # not disturb the notes about the first.
        if stopped or os.getpid() != process:
            return
        stopped = True
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in with_hangup(signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
