"""Processes that own folders: who they are, and whether they still run."""

from __future__ import annotations

import getpass
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from experiments import slurm

STALE_AFTER = 600.0
"""Seconds without a sign of life after which an owner who cannot be asked (another host, no Slurm) counts as dead."""
PULSE = 60.0
"""Seconds between signs of life of an owner who has nothing to report."""


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other one that ever ran."""

    host: str
    pid: int
    started: str
    """Start time of the process as the kernel states it: a pid may come again, a pid with its start time does not."""
    boot: str
    """Identifies the boot and the pid namespace in which `pid` has a meaning."""
    job: str
    """Slurm job ("187", "187_3"), or ""."""
    restarts: int
    """How often Slurm had requeued that job."""
    user: str
    claimed_at: float
    cluster: str = ""
    """Of the job: elsewhere its number is another job's, or nobody's. "" where unknown."""

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=process_start(os.getpid()),
            boot=_boot(),
            job=slurm.current_job(),
            restarts=slurm.current_restarts(),
            user=_user(),
            claimed_at=time.time(),
            cluster=slurm.cluster_name() if slurm.current_job() else "",
        )

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.user}@{self.host} (pid {self.pid}{job})"

    @property
    def is_local(self) -> bool:
        """Whether `pid` can be looked up by this process."""
        return self.host == socket.gethostname() and self.boot == _boot()

    def alive(self, silent: float) -> bool:
        """Whether the process still runs.

        Args:
            silent: seconds since its last sign of life; decides only where nobody can be asked.
        """
        if self.is_local and (self.user == _user() or _sees_others()):
            return bool(self.started) and process_start(self.pid) == self.started
        here = slurm.cluster_name() if self.cluster else ""
        if self.job and here in ("", self.cluster):
            if self.job == slurm.current_job() and self.restarts < slurm.current_restarts():
                return False  # an earlier start of the very job that asks
            ours = self.user == _user()  # others' jobs may be hidden from us, however often we ask
            state = slurm.state_of(self.job, silent if ours else math.inf)
            if state == slurm.UNLISTED and ours:  # over, unless it may be a job of another cluster
                return not here and silent < 2 * PULSE
            if state not in (None, slurm.UNLISTED):
                return state in slurm.ALIVE
        return silent < STALE_AFTER


def process_start(pid: int) -> str:
    """When the process started, in whatever unit the system keeps; "" if there is none or it has ended."""
    try:
        # Fields after the command's name, which may itself hold blanks and brackets: state is field 3, start field 22.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):  # also where it ends between the opening and the reading
        if sys.platform == "linux":
            return ""
    plain = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}  # the same words whoever asks
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, env=plain)
    return answer.stdout.strip()


@lru_cache
def _sees_others() -> bool:
    """Whether processes of other users can be looked up here: /proc may be mounted to hide them."""
    return sys.platform != "linux" or os.access("/proc/1/stat", os.R_OK)


@lru_cache
def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@lru_cache
def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
