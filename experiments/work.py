"""A folder in which one process at a time does one piece of work: claim it, report on it, leave a result.

Trainings (`Run`) and evaluations (`Evaluation`) follow the same protocol. Work is done if and only if its `result.json`
is there and fits; exit codes and scheduler states never count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.attempts import check_attempt, forgiven, next_attempt
from experiments.claims import Busy, Claim, ClaimLost, acquire, mtime, newest_claim, pulse
from experiments.errors import UserError
from experiments.failures import classify
from experiments.files import atomic_write_json, read_json, unreadable
from experiments.owners import Owner
from experiments.ranks import is_leader
from experiments.shapes import RESULT, misfit
from experiments.status import State, Status
from experiments.stopping import Stopped

LONGEST_SILENCE = 15.0
"""Seconds between two reports of progress of work that has gone on for an hour: each is a file that a shared file
system has to make, flush and rename, for every run at work, while all processes of the run wait."""
LONGEST_PAUSE = 30.0
"""Seconds between two questions, by one who waits, whether an owner is alive: of another host Slurm has to be asked."""


class Work:
    """One folder of work. Only `claim` gives the right to write to it.

    Of the processes of a distributed run only rank 0 claims and writes. Where `distributed`, the others go along with
    it; elsewhere they find nothing to do.
    """

    distributed = False

    def __init__(self, folder: Path):
        self.folder = folder
        self._follows = False
        self._claim: Claim | None = None
        self._status = Status()
        self._began = self._written = 0.0
        self._devices = 1
        self._counted = 0.0

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def status_path(self) -> Path:
        """Progress and, after a failure, its reason."""
        return self.folder / "status.json"

    @property
    def result_path(self) -> Path:
        """Written last."""
        return self.folder / "result.json"

    # --- result -------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any] | None:
        """The result, or None as long as the work is not done. Raises UserError if the file is damaged."""
        try:
            result = read_json(self.result_path)
        except FileNotFoundError:
            return None
        if wrong := misfit(result, RESULT) or ("" if "metrics" in result else "no metrics in it"):
            raise UserError(f"{self.result_path} is damaged ({wrong}); remove it and run the same command again.")
        return result if self._complete(result) else None

    def _complete(self, result: dict[str, Any]) -> bool:
        return True

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.result() is not None

    def write_result(self, result: dict[str, Any]) -> None:
        """Declare the work done. Call inside `claim`, after everything else is written."""
        if self._follows:
            return
        self._check_claim()
        self._write_status()
        atomic_write_json(self.result_path, {**result, "device_seconds": self._status.device_seconds})

    # --- claim and status ---------------------------------------------------------------------------------------------

    @contextmanager
    def claim(
        self,
        wait: bool = False,
        on_wait: Callable[[Owner | None], None] | None = None,
        devices: int = 1,
        most_repeats: int = 0,
    ) -> Iterator[bool]:
        """Own the folder inside the block; yields False, owning nothing, if the work is done already.

        However the block ends, its outcome goes to status.json: done, failed (with cause and reason), or stopped (no
        result, an interrupt, or an exit that a signal asked for).

        Args:
            wait: while another live process owns the folder, wait until it finishes, fails or dies.
            on_wait: called once, with the owner, before waiting.
            devices: that are held meanwhile, for the sum of device hours.
            most_repeats: give up instead if so many attempts failed in the same way without getting further; 0 = never.

        Raises:
            Busy: another live process owns it and `wait` is off.
            GivenUp: it failed in the same way too often.
        """
        if not is_leader():
            with self._follow() as mine:
                yield mine
            return
        claim = self._acquire(wait, on_wait)
        if claim is None:
            yield False
            return
        self._claim, self._devices, self._counted, self._began = claim, devices, time.time(), time.monotonic()
        with suppress(UserError):
            self._status = self.status()
        self._status = next_attempt(self._status, claim)
        try:
            check_attempt(self._status, most_repeats)
            self._write_status()
            with pulse(claim, self.status_path):
                yield True
            done = self.is_done()
            self._finish("done" if done else "stopped", reason="" if done else "stopped before it was done")
        except ClaimLost:
            raise
        except Exception as error:
            cause, reason = classify(error)
            self._finish("failed", cause=cause, reason=reason)
            raise
        except BaseException as error:  # KeyboardInterrupt, SystemExit, and Lightning's exit after SIGTERM
            by = error.name if isinstance(error, Stopped) else type(error).__name__
            self._finish("stopped", reason=f"stopped by {by}")
            raise
        finally:
            self._claim = None
            with suppress(OSError):
                claim.release()

    @contextmanager
    def starting_from(self, run_id: str) -> Iterator[None]:
        """Inside a claim: another run is trained meanwhile, which reports its progress and counts its time itself."""
        self._status = replace(self._status, phase="start", start=run_id)
        if self._claim is not None:
            self._write_status()
        try:
            yield
        finally:
            self._counted = time.time()

    @contextmanager
    def _follow(self) -> Iterator[bool]:
        """What `claim` does in the other ranks: enter once rank 0 owns the folder, leave once it is through."""
        if not self.distributed:
            yield False
            return
        while not (claim := newest_claim(self.folder)) or not claim.is_of_leader() or claim.released:
            if self.is_done():
                yield False
                return
            time.sleep(0.2)
        self._follows = True
        yield True
        while claim.holds() and (current := newest_claim(self.folder)) and current.alive():
            time.sleep(0.2)

    def _acquire(self, wait: bool, on_wait: Callable[[Owner | None], None] | None) -> Claim | None:
        pause = 1.0
        while True:
            # Asked before the claim, so that finding finished work is no attempt; `acquire` finds the previous owner
            # gone, so whatever it was going to finish is there by the second look.
            if self.is_done():
                return None
            try:
                claim = acquire(self.folder, self.status_path)
            except Busy as busy:
                if not wait:
                    raise
                if on_wait:
                    on_wait(busy.owner)
                on_wait = None
                deadline = time.monotonic() + pause  # a release is seen at once; whether it lives is asked less often
                while time.monotonic() < deadline and not ((last := newest_claim(self.folder)) and last.released):
                    time.sleep(1.0)
                pause = min(1.5 * pause, LONGEST_PAUSE)
                continue
            if self.is_done():
                claim.release()
                return None
            return claim

    def update(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        max_steps: int | None = None,
        loss: float | None = None,
        steps_per_s: float | None = None,
    ) -> None:
        """Report progress; what is left out stays as it was. Writes a new phase at once, else at most once a second,
        of long work more seldom.

        Raises:
            ClaimLost: another process took over; stop without writing anything more.
        """
        if self._follows:
            return
        old = self._status
        self._status = replace(
            old,
            phase=old.phase if phase is None else phase,
            step=old.step if step is None else step,
            max_steps=old.max_steps if max_steps is None else max_steps,
            loss=old.loss if loss is None else loss,
            steps_per_s=old.steps_per_s if steps_per_s is None else steps_per_s,
        )
        now = time.monotonic()
        pause = min(LONGEST_SILENCE, max(1.0, (now - self._began) / 240))
        if self._status.phase != old.phase or now - self._written >= pause:
            self._check_claim()
            self._write_status()

    def record_failure(self, cause: str, reason: str) -> None:
        """Note for a process that died without a word why it did; without effect if the work is done or owned."""
        status = self.status()
        if self.is_done() or self._live_claim(status):
            return
        self._status = replace(status, state="failed", cause=cause, reason=reason)
        self._write_status()

    def clear_failure(self) -> None:
        """Forget a failure, so that the next command tries again; also removes a damaged status or result."""
        for path, read in ((self.status_path, self.status), (self.result_path, self.result)):
            try:
                read()
            except UserError:
                path.unlink(missing_ok=True)
        if (status := self.status()).state == "failed":
            self._status = forgiven(status, self.attempts)
            self._write_status()

    def status(self) -> Status:
        """The status as written, whoever wrote it. Raises UserError if it is damaged."""
        return Status.read(self.status_path)

    def inspect(self) -> Status:
        """The status as it is: `done` only with a result, `interrupted` if its owner is gone. Damage raises nothing."""
        try:
            if self.result() is not None:
                return replace(self.status(), state="done", cause="", reason="")
            status = self.status()
            if status.state == "done":  # its result was taken away
                return Status()
            if status.state in ("missing", "running"):
                if self._live_claim(status):
                    return replace(status, state="running")
                return replace(status, state="interrupted") if status.state == "running" else status
            return status
        except UserError as error:
            return Status("failed", cause="damaged", reason=str(error))
        except OSError as error:  # of the claims
            return Status("failed", cause="damaged", reason=str(unreadable(self.folder / "claims", error)))

    @property
    def attempts(self) -> int:
        """How often the work was begun."""
        claim = newest_claim(self.folder)
        return claim.generation if claim else 0

    @property
    def attempts_since_forgiven(self) -> int:
        """How often the work was begun since `clear_failure` last forgave a failure: `ablate retry` begins afresh."""
        try:
            return self.attempts - self.status().forgiven_at
        except UserError:
            return self.attempts

    def _live_claim(self, status: Status) -> Claim | None:
        claim = newest_claim(self.folder)
        if claim is None:
            return None
        claimed = claim.owner.claimed_at if claim.owner else 0.0
        heard = max(status.updated_at, mtime(self.status_path), claimed)
        return claim if claim.alive(time.time() - heard) else None

    def _check_claim(self) -> None:
        if self._claim is None or not self._claim.holds():
            raise ClaimLost(f"{self.folder} was taken over by another process while this one was silent.")

    def _finish(self, state: State, cause: str = "", reason: str = "") -> None:
        self._status = replace(self._status, state=state, cause=cause, reason=reason)
        # A status that cannot be written (full disk) must not hide the error that ended the work.
        with suppress(UserError):
            if self._claim and self._claim.holds():
                self._write_status()

    def _write_status(self) -> None:
        now = time.time()
        spent = (now - self._counted) * self._devices if self._claim else 0.0
        self._counted = now
        self._status = replace(self._status, updated_at=now, device_seconds=self._status.device_seconds + spent)
        record = asdict(self._status)
        for key in ("loss", "steps_per_s"):
            value = record[key]
            record[key] = float(value) if value is not None and math.isfinite(value) else None
        atomic_write_json(self.status_path, record)
        self._written = time.monotonic()
