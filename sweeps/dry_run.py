"""`ablate run --dry-run`: what would be started or submitted, what is refused, how long it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil

from experiments.errors import UserError
from sweeps.config import time_limit
from sweeps.interventions import ending_jobs
from sweeps.local import local_slots
from sweeps.parents import dry_run
from sweeps.planner import Cell, Plan
from sweeps.preview import amount, preview, tell_cost
from sweeps.requirements import refusals
from sweeps.slurm import SlurmLauncher
from sweeps.slurm_commands import USUAL_ARRAY, max_array_size, would_refuse
from sweeps.state import CellState
from sweeps.table import duration, summary

Say = Callable[[str], None]


def tell_open(plan: Plan, launcher: str, jobs: int, say: Say, with_report: bool = True) -> None:
    """What `ablate run` would start and leave, the jobs that it would submit, and what that would cost.

    Args:
        jobs, with_report: as for `ablate run`.

    Raises:
        UserError: `ablate run` would refuse it.
    """
    states = plan.states()
    is_open = any(state.is_open for state in states.values())
    slurm = SlurmLauncher(plan, jobs) if launcher == "slurm" else None
    arrays = _arrays(slurm, states, with_report) if slurm else []  # which may be refused: before anything is said
    if is_open and not slurm:
        local_slots(plan, jobs)
    for job in dict.fromkeys(ending_jobs(plan).values()):
        say(f"would wait for job {job} to end first")
    for line in dry_run((group for group in plan.groups() if states[group.name].is_open), plan.root):
        say(line)
    found = preview(plan) if is_open else {"cost": None, "cells": []}
    hours = {cell["cell"]: cell["device_hours"] for cell in found["cells"] if cell["device_hours"]}
    given_up = slurm.given_up(slurm.open_groups(states)) if slurm else {}
    times = {cell.name: _Time(cell, hours[cell.name], plan, launcher) for cell in plan.cells if cell.name in hours}
    for cell in plan.cells:
        state = states[cell.name]
        reason = given_up.get(cell.group, "") if state.is_open else ""
        verb = "would start" if state.is_open and not reason else "would leave"
        time = f"; {times[cell.name].text}" if state.is_open and cell.name in times else ""
        say(f"{verb}  {cell.name}: {reason or state.describe()}{time}")
    for line in arrays:
        say(line)
    for error in refusals(plan, states):  # a plan can be looked at without what it needs
        say(f"would be refused as it stands: {error}")
    say(summary(states))
    if found["cost"]:
        say(tell_cost(found["cost"]))
    if slurm:
        for line in _beyond_limit(plan, [time for name, time in times.items() if states[name].is_open]):
            say(line)


class _Time:
    """How long the training of a cell takes by the planner's estimate.

    Args:
        hours: of device time.
    """

    def __init__(self, cell: Cell, hours: float, plan: Plan, launcher: str):
        self.name = cell.name
        resources, runtime = plan.request.resources, cell.config.runtime
        devices = runtime.processes
        if launcher == "slurm":
            devices = resources.nodes * (resources.gpus or runtime.devices)
        # Trials that are trainings are shared out among tasks, of one process each.
        self.devices = cell.config.search.jobs if cell.is_searched and cell.config.search.trains else devices
        self.seconds = 3600 * hours / self.devices
        limit = time_limit(resources.time) if launcher == "slurm" else None
        self.jobs = ceil(self.seconds / (limit - resources.signal_seconds)) if limit else 1
        several = f", more than one job's limit of {resources.time}: {self.jobs} jobs" if self.jobs > 1 else ""
        self.text = f"about {amount(hours)} device-hours, {duration(self.seconds)} on {self.devices} device(s){several}"


def _beyond_limit(plan: Plan, times: Iterable[_Time]) -> list[str]:
    """What becomes of trainings that take longer than a job may."""
    resources, longer = plan.request.resources, sorted((t for t in times if t.jobs > 1), key=lambda t: -t.jobs)
    if not longer:
        return []
    lines = [
        f"Warning: {len(longer)} training(s) take longer than resources.time={resources.time} by this estimate. Each "
        f"saves {resources.signal_seconds} s (resources.signal_seconds) before the limit, is requeued and goes on from "
        f"there, in up to {resources.max_attempts} jobs (resources.max_attempts)."
    ]
    if never := [time for time in longer if time.jobs > resources.max_attempts]:
        lines.append(
            f"Warning: {len(never)} would be given up before they are done, such as {never[0].name} after "
            f"{resources.max_attempts} of {never[0].jobs} jobs: raise resources.time, resources.gpus or "
            "resources.max_attempts."
        )
    return lines


def _arrays(slurm: SlurmLauncher, states: Mapping[str, CellState], with_report: bool) -> list[str]:
    """The arrays, the head of each one's script, and what Slurm would answer."""
    largest, unknown = USUAL_ARRAY, ""
    try:
        largest = max_array_size()
    except UserError as error:
        unknown = (
            "Slurm could not be asked what waits in its queue, whether it takes these jobs, how many tasks an array "
            f"may have (here {USUAL_ARRAY}). {error}"
        )
    lines = []
    for batch in slurm.batches(states, largest):
        path, script = slurm.draft(batch)
        lines += [batch.text, *(f"    {line}" for line in script.splitlines() if line.startswith("#SBATCH "))]
        lines.append(f"    script: {path}")
        if not unknown and (refused := would_refuse(script)):
            lines.append(f"    Slurm would refuse this now: {refused}")
    if lines and with_report:
        lines.append("would submit a job that writes the report when these have ended")
    return [*lines, *filter(None, [unknown])]
