"""Slurm launcher: job arrays, submitted once, that go on by themselves.

Nothing has to stay alive on the login node. Asking again submits only what is missing: done is what has a result,
running is what a live process owns, queued is what Slurm says. Job scripts are plain files in the sweep's folder.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.claims import Busy, Claim, acquire
from experiments.config import save_config
from experiments.errors import UserError
from experiments.files import atomic_write_text
from experiments.run_config import RuntimeConfig
from experiments.status import Part
from experiments.store import RunStore
from sweeps.config import ResourcesConfig
from sweeps.local import WORKER
from sweeps.planner import Cell, Group, Plan
from sweeps.slurm_commands import max_array_size, sbatch
from sweeps.slurm_script import array_script, report_script
from sweeps.snapshot import take_snapshot
from sweeps.submissions import Submission, new_uid, places, read_submissions, recover, write_submissions


@dataclass(frozen=True)
class Batch:
    """An array of tasks to submit."""

    groups: Sequence[Group]
    """Of each task; several work on one where values are searched."""
    part: Part
    resources: ResourcesConfig
    what: str
    """The tasks do."""
    parallel: int
    """Tasks at once; 0 = no limit."""
    waits: bool = False
    """Whether each task waits for the task of the same number in the last array of trainings."""

    @property
    def text(self) -> str:
        """In words."""
        r, waits = self.resources, ", each after its training" if self.waits else ""
        each = f"{r.nodes} node(s), {f'{r.gpus} GPU(s) per node' if r.gpus else 'CPUs'}"
        return f"would submit an array of {len(self.groups)} task(s): {self.what}{waits}; {each}"


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

    def open_groups(self) -> list[Group]:
        """What to submit now, by training."""
        states = self.plan.states()
        groups = []
        for group in self.plan.groups():
            found = [states[cell.name] for cell in group.cells]
            cells = tuple(cell for cell in group.cells if states[cell.name].is_open)
            if cells and not any(state.state == "running" or state.is_queued for state in found):
                groups.append(replace(group, cells=cells))
        return groups

    def launch(self) -> list[Submission]:
        """Submit what is open.

        Returns:
            The new submissions, [] if nothing was open.

        Raises:
            UserError: Slurm does not answer, or refuses the job.
        """
        claim = self._claim()
        try:
            known = recover(read_submissions(self.folder))
            write_submissions(self.folder, known)
            if places(self.folder, max_age=0.0) is None:
                raise UserError("Slurm does not answer (squeue failed); nothing was submitted. Try again later.")
            groups = self._within_attempts(self.open_groups())
            if not groups:
                return []
            batches = self._checked(groups, max_array_size())
            code = take_snapshot(self.folder / "code")
            new: list[Submission] = []
            trainings = ""
            for batch in batches:
                new.append(self._submit_array(batch, code, [*known, *new], trainings if batch.waits else ""))
                trainings = new[-1].job if batch.part == "train" else trainings
            if self.report:
                self._submit_report(new, code)
            return new
        finally:
            claim.release()

    def batches(self, largest: int) -> list[Batch]:
        """The arrays that `launch` would submit now to a cluster whose arrays have at most `largest` tasks.

        Raises:
            UserError: `launch` would refuse them.
        """
        return self._checked([group for group in self.open_groups() if not self._attempts_too_many(group)], largest)

    def given_up(self) -> dict[str, str]:
        """Groups that `launch` would leave out as failed -> why."""
        groups = [(group, self._attempts_too_many(group)) for group in self.open_groups()]
        return {group.id: reason for group, reason in groups if reason}

    def draft(self, batch: Batch) -> tuple[Path, str]:
        """The script of an array as `launch` would write it now, and where; `*` stands for what is not known before."""
        uid = f"ablate-{self.plan.sweep.name}-*"
        return self.jobs / f"{uid}.sbatch", self._script(batch, uid, self.folder / "code" / "*", batch.waits * "*")

    def _checked(self, groups: Sequence[Group], largest: int) -> list[Batch]:
        """The arrays of these groups; what is wrong with one comes out before anything is written or submitted."""
        batches = list(self._batches(groups, largest))
        for batch in batches:
            for group in batch.groups:
                for cell in group.cells:
                    self._runtime(cell, batch)
        return batches

    def _batches(self, groups: Sequence[Group], largest: int) -> Iterator[Batch]:
        """The arrays, none of more tasks than the cluster takes."""
        apart = self.resources.of_evaluation()
        if self.plan.is_timed:
            yield from self._arrays(groups, largest, "all", self.resources, "timings")
            return
        searches = [group for group in groups if group.cells[0].is_searched]
        others = [group for group in groups if not group.cells[0].is_searched]
        training = [group for group in searches if not group.cells[0].run_id]
        if training and (processes := self.resources.nodes * max(self.resources.gpus, 1)) > 1:
            raise UserError(
                f"A search over a key of the training runs one process a trial, not {processes}: set resources.nodes=1 "
                f"and resources.gpus={min(self.resources.gpus, 1)}."
            )
        if apart is None:
            yield from self._arrays(others, largest, "all", self.resources, "trainings and their evaluations")
        else:
            yield from self._after_trainings(others, largest, apart, "evaluations")
        # Hands that search would hold their devices idle while one of them trains; where every trial is a training,
        # there is none that they share. Each hand is one process: ranks would not wait for each other's trials.
        sharing = [group for group in searches if group not in training]
        single = replace(apart or self.resources, nodes=1, gpus=min((apart or self.resources).gpus, 1))
        yield from self._after_trainings(sharing, largest, single, "searches")
        yield from self._arrays(training, largest, "all", self.resources, "searches")

    def _after_trainings(
        self, groups: Sequence[Group], largest: int, resources: ResourcesConfig, what: str
    ) -> Iterator[Batch]:
        """Arrays of trainings, each followed by what waits for them, task by task; then of what need not wait."""
        store = RunStore(self.plan.root)
        trained = [group for group in groups if store.run(group.cells[0].run_id).is_done()]
        # Those that most hands work on first: in every array a task of the same number works on the same group.
        untrained = sorted((group for group in groups if group not in trained), key=_hands, reverse=True)
        for some in _chunks(untrained, largest):
            yield Batch(some, "train", self.resources, "trainings", self.parallel)
            hands = min(_hands(some[0]), self.parallel or _hands(some[0]))
            for number in range(hands):
                these = [group for group in some if _hands(group) > number]
                yield Batch(these, "evaluate", resources, what, -(-self.parallel // hands), waits=True)
        yield from self._arrays(trained, largest, "evaluate", resources, what)

    def _arrays(
        self, groups: Sequence[Group], largest: int, part: Part, resources: ResourcesConfig, what: str
    ) -> Iterator[Batch]:
        """Of as many tasks a group as there are hands to work on it."""
        tasks = [group for group in groups for _ in range(_hands(group))]
        for some in _chunks(tasks, largest):
            yield Batch(some, part, resources, what, self.parallel)

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
        store, kept = RunStore(self.plan.root), []
        for group in groups:
            if reason := self._attempts_too_many(group):
                group.cells[0].works(store)[0].record_failure("other", reason)
            else:
                kept.append(group)
        return kept

    def _attempts_too_many(self, group: Group) -> str:
        """Why a group is begun no more; "" if it is."""
        run = group.cells[0].works(RunStore(self.plan.root))[0]
        attempts = 0 if group.name in self.plan.forgiven else run.attempts_since_forgiven
        if run.is_done() or attempts < self.resources.max_attempts:
            return ""
        return f"given up after {attempts} attempts (resources.max_attempts)"

    def _submit_array(self, batch: Batch, code: Path, known: list[Submission], after: str) -> Submission:
        uid = new_uid(self.plan.sweep.name)
        tasks, script = self._tasks(uid), self.jobs / f"{uid}.sbatch"
        lines = ["\t".join(str(self._write_config(cell, batch)) for cell in group.cells) for group in batch.groups]
        atomic_write_text(tasks, "".join(f"{line}\n" for line in lines))
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        atomic_write_text(script, self._script(batch, uid, code, after))
        # Noted before it is submitted: if this process dies in between, the next one finds the job by its comment.
        submission = Submission(uid, "", [group.id for group in batch.groups], time.time())
        write_submissions(self.folder, [*known, submission])
        submission = replace(submission, job=sbatch(script))
        write_submissions(self.folder, [*known, submission])
        return submission

    def _tasks(self, uid: str) -> Path:
        """The list of what each task works on."""
        return self.jobs / f"{uid}.txt"

    def _script(self, batch: Batch, uid: str, code: Path, after: str) -> str:
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
            after=after,
            exclusive=self.plan.is_timed,
        )

    def _submit_report(self, arrays: list[Submission], code: Path) -> None:
        uid = new_uid(f"{self.plan.sweep.name}-report")
        script = self.jobs / f"{uid}.sbatch"
        text = report_script(
            title=self.plan.title,
            name=self.plan.sweep.name,
            uid=uid,
            resources=self.resources,
            after=[item.job for item in arrays],
            logs=self.folder / "logs",
            code=code,
            command=[sys.executable, "-m", "experiments.cli", *self.report],
        )
        atomic_write_text(script, text)
        sbatch(script)

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
        processes = runtime.devices * runtime.num_nodes
        if cell.config.trainer.batch_size % (cell.config.trainer.accumulate * processes):
            raise UserError(
                f"Cell {cell.name}: trainer.batch_size={cell.config.trainer.batch_size} cannot be shared among "
                f"{processes} processes (resources.nodes x gpus) times trainer.accumulate."
            )
        return runtime


def _chunks(groups: Sequence[Group], size: int) -> Iterator[Sequence[Group]]:
    for begin in range(0, len(groups), size):
        yield groups[begin : begin + size]


def _hands(group: Group) -> int:
    """How many array tasks work on a group at once: several only while values are searched."""
    cell = group.cells[0]
    return cell.config.search.jobs if cell.is_searched else 1
