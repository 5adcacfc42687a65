"""Who may work on a folder: generation-numbered claim files that need nothing but exclusive creation, also over NFS.

`claims/000001.json`, `claims/000002.json`, ... are each created exactly once, by a hard link, which fails if the name
is there. The owner is whoever made the highest one, until `000002.released` stands beside it or the owner is dead. Two
who both find the owner dead both try to create the next number, and one fails: there is no lock to break and no race.
The number of generations is the number of attempts.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments import slurm
from experiments.errors import CellError, UserError
from experiments.owners import PULSE, STALE_AFTER, Owner


class Busy(CellError):
    """Another live process owns the folder."""

    def __init__(self, folder: Path, owner: Owner | None):
        self.folder, self.owner = folder, owner
        super().__init__(f"{folder} is being worked on by {owner or 'another process'}.")


class ClaimLost(CellError):
    """This process was taken for dead and another took over; it must not write any more."""


@dataclass(frozen=True)
class Claim:
    """One generation of ownership of the folder that holds `claims`."""

    claims: Path
    generation: int
    owner: Owner | None
    """None if the file is damaged: then only its age can tell."""
    released: bool

    def release(self) -> None:
        """Let others take over at once."""
        self.path("released").touch()

    def holds(self) -> bool:
        """Whether nobody has taken over since."""
        return _newest(self.claims)[0] == self.generation

    def alive(self, silent: float | None = None) -> bool:
        """Whether the owner is still at work; `silent` as in `Owner.alive`, by default the age of the claim."""
        if self.released:
            return False
        silent = time.time() - mtime(self.path("json")) if silent is None else silent
        return self.owner.alive(silent) if self.owner else silent < STALE_AFTER

    def is_of_leader(self) -> bool:
        """Whether the owner is rank 0 of the distributed run that this process belongs to."""
        if self.owner is None:
            return False
        if self.owner.job:
            return (self.owner.job, self.owner.restarts) == (slurm.current_job(), slurm.current_restarts())
        return self.owner.is_local and self.owner.pid == os.getppid()

    def path(self, suffix: str) -> Path:
        """The claim file itself ("json") or the mark that it was given up ("released")."""
        return self.claims / f"{self.generation:06d}.{suffix}"


def newest_claim(folder: Path) -> Claim | None:
    """The highest generation in `folder`/claims, or None if nobody ever claimed it."""
    claims = folder / "claims"
    generation, released = _newest(claims)
    if not generation:
        return None
    try:
        owner = Owner(**json.loads((claims / f"{generation:06d}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        owner = None
    return Claim(claims, generation, owner, released)


def acquire(folder: Path, heartbeat: Path) -> Claim:
    """Become the owner of `folder`.

    Args:
        folder: what is claimed; created if need be.
        heartbeat: a file that owners write to as long as they live.

    Raises:
        Busy: a live process owns it.
        UserError: the folder cannot be written.
    """
    claims = folder / "claims"
    try:
        _newest_dead(folder, heartbeat, time.time())  # before anything is written: whoever waits asks again and again
        claims.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=claims, prefix=".claim.")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(me := Owner.here()), file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            return _next_generation(folder, Path(name), heartbeat, me)
        finally:
            os.unlink(name)
    except OSError as error:
        raise UserError(
            f"Cannot claim {folder}: {error.strerror or error}. Free some space or name another folder with "
            "runtime.root=DIR or the environment variable ABLATE_ROOT."
        ) from error


@contextmanager
def pulse(claim: Claim, heartbeat: Path) -> Iterator[None]:
    """Inside the block, touch the file `heartbeat` every `PULSE` seconds for as long as the claim holds: a process that
    measures, validates or waits for another run reports nothing for a long time and is alive all the same."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(PULSE):
            with suppress(OSError):
                if not claim.holds():
                    return
                os.utime(heartbeat)

    thread = threading.Thread(target=beat, name=f"pulse of {claim.claims.parent.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _next_generation(folder: Path, ticket: Path, heartbeat: Path, me: Owner) -> Claim:
    now = ticket.stat().st_mtime  # the file server's clock, which also stamps the heartbeats: hosts' clocks may differ
    while True:
        last = _newest_dead(folder, heartbeat, now)
        claim = Claim(folder / "claims", last.generation + 1 if last else 1, me, released=False)
        if _create(ticket, claim.path("json")):
            return claim


def _newest_dead(folder: Path, heartbeat: Path, now: float) -> Claim | None:
    """The highest generation, or None if there is none. Raises Busy if its owner is alive at `now`, in Unix seconds."""
    last = newest_claim(folder)
    if last and last.alive(now - max(mtime(heartbeat), mtime(last.path("json")))):
        raise Busy(folder, last.owner)
    return last


def _create(ticket: Path, path: Path) -> bool:
    """Give `ticket` the name `path` as well; False if that name is taken."""
    try:
        os.link(ticket, path)
    except FileExistsError:
        # Over NFS the answer to a link that did succeed may be lost, and the repeated request then fails.
        return os.stat(ticket).st_nlink == 2
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS):
            raise
        return _create_without_links(ticket, path)
    return True


def _create_without_links(ticket: Path, path: Path) -> bool:
    """As `_create`, for file systems that know no hard links."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(ticket.read_bytes())
    return True


def _newest(claims: Path) -> tuple[int, bool]:
    """The highest generation (0 = none) and whether it was released."""
    try:
        names = os.listdir(claims)
    except FileNotFoundError:
        return 0, False
    generation = max((int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()), default=0)
    return generation, f"{generation:06d}.released" in names


def mtime(path: Path) -> float:
    """When the file was last written, in Unix seconds of the file server's clock; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
