"""Local launcher: one worker process per training, `jobs` at a time, on this machine's cores and GPUs.

Killing the launcher or a worker, in whatever way, leaves nothing but runs that the next `ablate run` continues: all
that is known about progress lies in the run store, and workers go down with their launcher.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from experiments.config import save_config
from experiments.errors import UserError
from experiments.failures import cause_of
from experiments.stopping import with_hangup
from experiments.store import RunStore
from sweeps.cache import PROJECT
from sweeps.cancellation import CancelWatch, note_worker
from sweeps.devices import Slots
from sweeps.logs import last_line, log_path, open_log
from sweeps.planner import Cell, Group, Plan
from sweeps.progress import Progress
from sweeps.queue import read_queue
from sweeps.state import CellState

WORKER = (sys.executable, "-m", "experiments.cli", "execute")
"""Trains the run that the given configuration files share, unless it is done, then evaluates each of them."""
PATIENCE = 20.0
"""Seconds that an interrupted worker has for its checkpoint before it is killed."""
_POLL = 0.2


@dataclass
class Worker:
    """A process at work on a group."""

    group: Group
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    gpus: tuple[str, ...]
    started: float
    stopped: bool = False
    """Whether this launcher asked it to end, so that its end is no death to record."""


class LocalLauncher:
    """Runs the open cells of a plan.

    Args:
        plan: what to run.
        slots: how many workers at once, and on what.
        progress: told about everything that happens.
        worker: command that the configuration files are appended to.
    """

    def __init__(self, plan: Plan, slots: Slots, progress: Progress, worker: Sequence[str] = WORKER):
        self.plan, self.slots, self.progress, self.command = plan, slots, progress, tuple(worker)
        self.store = RunStore(plan.root)
        self.pending: list[Group] = []
        self.elsewhere: list[Group] = []
        """Groups that other live processes own; looked at again until they are done or given up."""
        self._told: set[str] = set()
        """Ids of those of them that were spoken of."""
        self.workers: list[Worker] = []
        self._cancel = CancelWatch(plan.folder)

    def launch(self) -> None:
        """Run until nothing is open. On an interrupt stop the workers in good order, then raise KeyboardInterrupt."""
        self._sort(self.plan.groups())
        with _signals_as_interrupt(), self.progress:
            try:
                while self.pending or self.elsewhere or self.workers:
                    self._reap()
                    self._look_elsewhere()
                    self._heed_cancel()
                    self._start()
                    working = {worker.group.id for worker in self.workers}
                    self.progress.update(working, {group.id for group in self.pending})
                    time.sleep(_POLL)
            except BaseException:
                self._interrupt(self.workers)
                raise
            finally:
                for worker in self.workers:
                    worker.log.close()
            self.progress.update(set())

    # --- steps of the loop --------------------------------------------------------------------------------------------

    def _sort(self, groups: Sequence[Group]) -> None:
        """Queue what is open, set aside what others are at, leave what Slurm is going to work on."""
        queue = read_queue(self.plan.folder)  # once for all: it may list thousands
        for group in groups:
            states = self.plan.states_of(group.cells, queue)
            if running := next((state for state in states.values() if state.state == "running"), None):
                self.elsewhere.append(group)
                if group.id not in self._told:
                    self._told.add(group.id)
                    self.progress.say(f"{group.name} is waited for: {running.status.owner} is at work on it.")
            elif queued := next((state for state in states.values() if state.is_queued), None):
                self.progress.say(
                    f"{group.name} is left to Slurm: {queued.describe()}. ablate cancel takes it out of the queue."
                )
            elif cells := _open_cells(group, states):
                self.pending.append(replace(group, cells=cells))

    def _states(self, group: Group) -> dict[str, CellState]:
        return self.plan.states_of(group.cells)

    def _look_elsewhere(self) -> None:
        if self.elsewhere and self.progress.due("elsewhere", 1.0):
            groups, self.elsewhere = self.elsewhere, []
            self._sort(groups)

    def _start(self) -> None:
        while self.pending and (gpus := self.slots.take()) is not None:
            group = self.pending.pop(0)
            states = self._states(group)
            cells = _open_cells(group, states)
            if not cells or any(state.state == "running" or state.is_queued for state in states.values()):
                self.slots.give_back(gpus)
                self._sort([group])  # someone else took it or finished it meanwhile
                continue
            self.workers.append(self._spawn(replace(group, cells=cells), gpus))
            self.progress.started(group)

    def _spawn(self, group: Group, gpus: tuple[str, ...]) -> Worker:
        configs = [self._write_config(cell) for cell in group.cells]
        log = open_log(log_path(self.plan, group.id))
        process = subprocess.Popen(
            [*self.command, *map(str, configs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment(gpus),
            start_new_session=True,  # the terminal's Ctrl-C reaches the launcher alone, which then stops its workers
            preexec_fn=_prepare_child,
        )
        note_worker(self.plan.folder, group.id, process.pid)
        return Worker(group, process, log, gpus, time.monotonic())

    def _write_config(self, cell: Cell) -> Path:
        path = self.plan.folder / "jobs" / cell.group / f"{cell.eval_id or cell.search_id}-local.yaml"  # not a job's
        threads = cell.config.runtime.threads or self.slots.threads
        runtime = replace(cell.config.runtime, threads=threads, progress=False)
        save_config(replace(cell.config, runtime=runtime), path)
        return path

    def _environment(self, gpus: tuple[str, ...]) -> dict[str, str]:
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        extra = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        extra["OMP_NUM_THREADS"] = str(self.slots.threads)
        if gpus:
            extra["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        return {**os.environ, **extra}

    def _reap(self) -> None:
        for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
            self.workers.remove(worker)
            self.slots.give_back(worker.gpus)
            worker.log.close()
            _signal_group(worker, signal.SIGKILL)  # children that outlived a killed worker
            self._account(worker)

    def _account(self, worker: Worker) -> None:
        """Note how a worker ended; queue what it left undone because another of its cells failed."""
        code = worker.process.returncode
        states = self._states(worker.group)
        in_order = worker.stopped or code in (0, -signal.SIGINT, -signal.SIGTERM, 130, os.EX_TEMPFAIL)
        if not in_order and not _explained(states):
            self._record_death(worker, code)
            states = self._states(worker.group)
        self.progress.finished(worker.group, states, time.monotonic() - worker.started)
        left = _open_cells(worker.group, states)
        if code != 0 and any(state.state == "failed" and not state.is_open for state in states.values()) and left:
            self.pending.append(replace(worker.group, cells=left))

    def _record_death(self, worker: Worker, code: int) -> None:
        parts = [work for cell in worker.group.cells for work in cell.works(self.store)]
        undone = next((part for part in parts if not part.is_done()), None)
        if undone is None:
            return
        if code < 0:
            hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
            undone.record_failure("killed", f"killed by {signal.Signals(-code).name}{hint}")
        else:
            line = last_line(log_path(self.plan, worker.group.id)) or f"exit code {code}"
            undone.record_failure("bad_config" if code == 2 else cause_of(line), line)

    def _heed_cancel(self) -> None:
        if not self.progress.due("cancel", 1.0) or (keep := self._cancel.requested()) is None:
            return
        self.pending = [group for group in self.pending if group.id in keep]
        self.elsewhere = [group for group in self.elsewhere if group.id in keep]
        self._interrupt([worker for worker in self.workers if worker.group.id not in keep])

    def _interrupt(self, workers: Sequence[Worker]) -> None:
        """Interrupt workers and wait; kill those that take too long, or all on a second Ctrl-C."""
        if not workers:
            return
        self.progress.say(f"Stopping {len(workers)} worker(s); Ctrl-C kills them at once.")
        for worker in workers:
            worker.stopped = True
            worker.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        with suppress(KeyboardInterrupt):
            while any(worker.process.poll() is None for worker in workers) and time.monotonic() < deadline:
                time.sleep(0.05)
        for worker in workers:
            _signal_group(worker, signal.SIGKILL)
            worker.process.wait()


def local_slots(plan: Plan, jobs: int) -> Slots:
    """The places that this machine has for a plan's runs; one for timings.

    Raises:
        UserError: it has not what one run wants, or timings are to run side by side.
    """
    if plan.is_timed and jobs > 1:
        raise UserError(f"{plan.sweep.name} takes times, one at a time: leave --jobs {jobs} out.")
    groups = plan.groups()
    return Slots(1 if plan.is_timed else jobs, len(groups), groups[0].cells[0].config.runtime)


def _open_cells(group: Group, states: dict[str, CellState]) -> tuple[Cell, ...]:
    return tuple(cell for cell in group.cells if states[cell.name].is_open)


def _explained(states: dict[str, CellState]) -> bool:
    """Whether the run store itself says how the group ended."""
    return any(state.state in ("failed", "stopped") for state in states.values()) or all(
        state.state == "done" for state in states.values()
    )


# --- processes and signals --------------------------------------------------------------------------------------------


def _signal_group(worker: Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, number)


def _prepare_child() -> None:
    """In the child: heed SIGINT even if the launcher was begun in the background of a script, which ignores it, and be
    told to stop when the launcher dies, even by kill -9 (Linux, prctl PR_SET_PDEATHSIG)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """A closed terminal or a `kill` stops the launcher as Ctrl-C does; under `nohup` a closed terminal does not."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in with_hangup(signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
