"""What one attempt at a piece of work hands on to the next: time spent, and how often it failed in the same way."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

from experiments import slurm
from experiments.claims import Claim
from experiments.errors import CellError
from experiments.failures import CAUSES
from experiments.status import Status


class GivenUp(CellError):
    """The work failed in the same way again and again, without getting any further."""


def next_attempt(previous: Status, claim: Claim) -> Status:
    """The status that this process' attempt begins with, from what the latest one wrote last."""
    status = Status(
        "running",
        attempt=claim.generation,
        host=socket.gethostname(),
        pid=os.getpid(),
        job=slurm.current_job(),
        device_seconds=previous.device_seconds,
        failed_as=previous.failed_as,
        failed_at=previous.failed_at,
        repeats=previous.repeats,
        forgiven_at=previous.forgiven_at,
    )
    if previous.cause == "repeated":  # given up already, without another try
        return status
    if previous.state not in ("running", "failed"):  # it ended in good order
        return status if previous.step <= status.failed_at else replace(status, failed_as="", repeats=0)
    cause = previous.cause if previous.state == "failed" else "killed"  # it died without a word
    same = cause == previous.failed_as and previous.step <= previous.failed_at
    farthest = max(previous.failed_at, previous.step)
    return replace(status, failed_as=cause, failed_at=farthest, repeats=previous.repeats + 1 if same else 1)


def forgiven(status: Status, attempts: int) -> Status:
    """The status of failed work that is to be tried again after so many attempts."""
    status = replace(status, failed_as="", failed_at=0, repeats=0, forgiven_at=attempts)
    return replace(status, state="stopped", cause="", reason="to be tried again")


def check_attempt(status: Status, most: int) -> None:
    """Raise GivenUp if the attempts before this one failed `most` times alike; 0 = never."""
    if most and status.repeats >= most:
        cause = CAUSES.get(status.failed_as, status.failed_as)
        raise GivenUp(
            f"given up: failed {status.repeats} times in the same way ({cause}) and never got beyond step "
            f"{status.failed_at}; fix the reason, then: ablate retry"
        )
