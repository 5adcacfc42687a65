"""Slurm launcher: job arrays, submitted once, that go on by themselves.

Nothing has to stay alive on the login node. Asking again submits only what is missing: done is what has a result,
running is what a live process owns, queued is what Slurm says. Job scripts are plain files in the sweep's folder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from experiments import slurm
from experiments.claims import Busy, Claim, acquire
from experiments.config import save_config
from experiments.errors import CellError, UserError
from experiments.files import atomic_write_text
from experiments.run_config import RuntimeConfig
from experiments.store import RunStore
from sweeps.arrays import Arrays, Batch
from sweeps.local import WORKER
from sweeps.planner import Cell, Group, Plan
from sweeps.queue import Queue, queued_elsewhere, read_queue
from sweeps.slurm_commands import max_array_size, sbatch
from sweeps.slurm_script import array_script, report_script
from sweeps.snapshot import take_snapshot
from sweeps.state import CellState
from sweeps.submissions import Submission, new_uid, read_submissions, recover, write_submissions


class PartlySubmitted(CellError):
    """Slurm took some of the jobs and refused the next."""


class SlurmLauncher:
    """Submits the open cells of a plan.

    Args:
        plan: what to run.
        parallel: tasks of an array at once; 0 = no limit.
        report: arguments of the `ablate` command that runs last; () = none.
        worker: command that the configuration files are appended to.
    """

    def __init__(self, plan: Plan, parallel: int = 0, report: Sequence[str] = (), worker: Sequence[str] = WORKER):
        self.plan, self.parallel, self.report, self.worker = plan, parallel, tuple(report), tuple(worker)
        self.resources = plan.request.resources
        # Jobs run elsewhere: every path in scripts and configurations must hold there, too.
        self.folder = plan.folder.resolve()
        self.jobs = self.folder / "jobs"

    def open_groups(self, states: Mapping[str, CellState]) -> list[Group]:
        """What to submit of cells in these states, by training."""
        groups = []
        for group in self.plan.groups():
            found = [states[cell.name] for cell in group.cells]
            cells = tuple(cell for cell in group.cells if states[cell.name].is_open)
            if cells and not any(state.state == "running" or state.is_queued for state in found):
                groups.append(replace(group, cells=cells))
        return groups

    def launch(self) -> list[Submission]:
        """Submit what is open, and what was refused of an earlier submission that is still in the queue.

        Returns:
            The new arrays, [] if nothing was open.

        Raises:
            UserError: Slurm does not answer, or refuses the first job; nothing was submitted.
            PartlySubmitted: it refuses another one.
        """
        claim = self._claim()
        try:
            known = recover(read_submissions(self.folder))
            write_submissions(self.folder, known)
            if slurm.job_states(max_age=0.0) is None:
                raise UserError("Slurm does not answer (squeue failed); nothing was submitted. Try again later.")
            queue = read_queue(self.folder)
            groups = self._within_attempts(self.open_groups(self.plan.states(queue)))
            batches = self._checked(groups, max_array_size(), queue)
            if batches or self._last_without_report(known, queue):
                return self._submit(batches, known, queue)
            return []
        finally:
            claim.release()

    def _submit(self, batches: Sequence[Batch], known: list[Submission], queue: Queue) -> list[Submission]:
        code = take_snapshot(self.folder / "code")
        new: list[Submission] = []
        try:
            for batch in batches:
                trainings = batch.trainings or next((item.job for item in reversed(new) if item.part == "train"), "")
                new.append(self._submit_array(batch, code, [*known, *new], _dependency(batch, trainings)))
            last = new[-1] if new else self._last_without_report(known, queue)
            if last and self.report:
                self._submit_report(last, new or [last], [*known, *new], code)
        except UserError as error:
            if not new:
                raise
            there = ", ".join(f"{item.job} ({batch.what})" for item, batch in zip(new, batches, strict=False))
            missing = [
                *dict.fromkeys(batch.what for batch in batches[len(new) :]),
                *(["the report"] * bool(self.report)),
            ]
            raise PartlySubmitted(
                f"{error} In the queue: {there}. Not submitted: {', '.join(missing)}; the same command again does that."
            ) from error
        return new

    def batches(self, states: Mapping[str, CellState], largest: int, afresh: bool = False) -> list[Batch]:
        """The arrays that `launch` would submit of cells in these states.

        Args:
            largest: tasks that an array of the cluster's may have.
            afresh: attempts are about to be forgotten; none have been too many.

        Raises:
            UserError: `launch` would refuse them.
        """
        groups = self.open_groups(states)
        given_up = {} if afresh else self.given_up(groups)
        return self._checked([g for g in groups if g.id not in given_up], largest, read_queue(self.folder))

    def given_up(self, groups: Iterable[Group]) -> dict[str, str]:
        """Those of the groups that `launch` would leave out as failed, because they were begun too often -> why."""
        store, found = RunStore(self.plan.root), {}
        for group in groups:
            run, most = group.cells[0].works(store)[0], self.resources.max_attempts
            if not run.is_done() and (attempts := run.attempts_since_forgiven) >= most:
                found[group.id] = f"given up after {attempts} attempts (resources.max_attempts)"
        return found

    def draft(self, batch: Batch) -> tuple[Path, str]:
        """The script of an array as `launch` would write it now, and where; `*` stands for what is not known before."""
        uid = f"ablate-{self.plan.sweep.name}-*"
        return self.jobs / f"{uid}.sbatch", self._script(
            batch, uid, self.folder / "code" / "*", _dependency(batch, batch.trainings or "*")
        )

    def _checked(self, groups: Sequence[Group], largest: int, queue: Queue) -> list[Batch]:
        """The arrays of these groups, and those that ones in the queue lack; what is wrong with one comes out before
        anything is written or submitted."""
        arrays = Arrays(self.plan, largest, self.parallel)
        others = queued_elsewhere(self.folder, [group.id for group in groups])
        batches = list(arrays.of([group for group in groups if group.id not in others]))
        # A training that another sweep is going to do is not worth a second allocation that waits while it is done.
        tasks = tuple(job for jobs in others.values() for job in jobs)
        for batch in arrays.of([group for group in groups if group.id in others]):
            batches.append(batch if batch.waits else replace(batch, elsewhere=tasks))
        batches += self._refused_before(queue, arrays)
        for batch in batches:
            for group in batch.groups:
                for cell in group.cells:
                    self._runtime(cell, batch)
        return batches

    def _refused_before(self, queue: Queue, arrays: Arrays) -> Iterator[Batch]:
        """What was to wait for trainings that are in the queue, and is not."""
        groups = {group.id: group for group in self.plan.groups()}
        for item in _active(read_submissions(self.folder), queue):
            alone = all(task.part == "train" for task in queue.active(item.groups))
            if item.part == "train" and alone and groups.keys() >= set(item.groups):
                yield from arrays.followers([groups[identity] for identity in item.groups], item.job)

    def _last_without_report(self, known: Sequence[Submission], queue: Queue) -> Submission | None:
        """The last array in the queue, if no report is going to follow it."""
        active = _active(known, queue)
        return active[-1] if active and self.report and not active[-1].report else None

    def _claim(self) -> Claim:
        """Submitting is for one at a time, also among users who share the folder."""
        waited = 0.0
        while True:
            try:
                return acquire(self.jobs, self.jobs / "submissions.json")
            except Busy:
                if waited > 120:
                    raise
                time.sleep(0.5)
                waited += 0.5

    def _within_attempts(self, groups: list[Group]) -> list[Group]:
        """Leave out, as failed, what was begun too often."""
        store, given_up = RunStore(self.plan.root), self.given_up(groups)
        for group in groups:
            if reason := given_up.get(group.id):
                group.cells[0].works(store)[0].record_failure("other", reason)
        return [group for group in groups if group.id not in given_up]

    def _submit_array(self, batch: Batch, code: Path, known: list[Submission], dependency: str) -> Submission:
        uid = new_uid(self.plan.sweep.name)
        tasks, script = self._tasks(uid), self.jobs / f"{uid}.sbatch"
        lines = ["\t".join(str(self._write_config(cell, batch)) for cell in group.cells) for group in batch.groups]
        atomic_write_text(tasks, "".join(f"{line}\n" for line in lines))
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        atomic_write_text(script, self._script(batch, uid, code, dependency))
        # Noted before it is submitted: if this process dies in between, the next one finds the job by its comment.
        groups, cluster = [group.id for group in batch.groups], slurm.cluster_name()
        submission = Submission(uid, "", groups, time.time(), batch.part, cluster)
        write_submissions(self.folder, [*known, submission])
        found = recover([replace(submission, job=sbatch(script))])
        if not found:
            raise UserError("Slurm's sbatch printed no job's id, and no job of its script is in the queue.")
        write_submissions(self.folder, [*known, *found])
        return found[0]

    def _tasks(self, uid: str) -> Path:
        """The list of what each task works on."""
        return self.jobs / f"{uid}.txt"

    def _script(self, batch: Batch, uid: str, code: Path, dependency: str) -> str:
        return array_script(
            title=self.plan.title,
            name=self.plan.sweep.name,
            uid=uid,
            resources=batch.resources,
            tasks=self._tasks(uid),
            count=len(batch.groups),
            parallel=batch.parallel,
            processes=1 if self.plan.is_timed else self._devices(batch.groups[0].cells[0], batch),
            logs=self.folder / "logs",
            code=code,
            worker=self.worker if batch.part == "all" else [*self.worker, "--part", batch.part],
            what=batch.what,
            dependency=dependency,
            exclusive=self.plan.is_timed,
        )

    def _submit_report(self, last: Submission, after: list[Submission], known: list[Submission], code: Path) -> None:
        script = self.jobs / f"{last.report_uid}.sbatch"
        text = report_script(
            title=self.plan.title,
            name=self.plan.sweep.name,
            uid=last.report_uid,
            resources=self.resources.of_report(),
            after=[item.job for item in after],
            logs=self.folder / "logs",
            code=code,
            command=[sys.executable, "-m", "experiments.cli", *self.report],
        )
        atomic_write_text(script, text)
        report = sbatch(script)
        write_submissions(self.folder, [replace(item, report=report) if item == last else item for item in known])

    def _devices(self, cell: Cell, batch: Batch) -> int:
        """Processes per node."""
        return batch.resources.gpus or (1 if batch.part == "evaluate" else cell.config.runtime.devices)

    def _write_config(self, cell: Cell, batch: Batch) -> Path:
        suffix = "" if batch.part == "all" else f"-{batch.part}"
        path = self.jobs / cell.group / f"{cell.eval_id or cell.search_id}{suffix}.yaml"
        save_config(replace(cell.config, runtime=self._runtime(cell, batch)), path)
        return path

    def _runtime(self, cell: Cell, batch: Batch) -> RuntimeConfig:
        """Where and how a task carries a cell out. Raises UserError if its batch cannot be shared out so."""
        runtime = replace(
            cell.config.runtime,
            root=str(self.plan.root.resolve()),
            devices=self._devices(cell, batch),
            num_nodes=batch.resources.nodes,
            device="cuda" if batch.resources.gpus else "cpu",
            threads=batch.resources.cpus or cell.config.runtime.threads,
            progress=False,
        )
        processes = runtime.processes
        if cell.config.trainer.batch_size % (cell.config.trainer.accumulate * processes):
            raise UserError(
                f"Cell {cell.name}: trainer.batch_size={cell.config.trainer.batch_size} cannot be shared among "
                f"{processes} processes (resources.nodes x gpus) times trainer.accumulate."
            )
        return runtime


def _dependency(batch: Batch, trainings: str) -> str:
    """What an array waits for, as sbatch takes it."""
    if batch.waits:
        return f"aftercorr:{trainings}"
    return f"afterany:{':'.join(batch.elsewhere)}" if batch.elsewhere else ""


def _active(submissions: Iterable[Submission], queue: Queue) -> list[Submission]:
    """Those of which a task waits or is at work."""
    active = {task.job.partition("_")[0] for tasks in queue.tasks.values() for task in tasks if task.is_active}
    return [item for item in submissions if item.job in active]
