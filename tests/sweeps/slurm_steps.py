"""Steps that tests of the Slurm launcher share."""

from __future__ import annotations

from sweeps import actions
from sweeps.planner import plan
from sweeps.slurm import SlurmLauncher
from sweeps.slurm_commands import max_array_size
from sweeps.submissions import read_submissions
from tests.sweeps.conftest import WORKER
from tests.sweeps.slurm_cluster import Cluster
from tests.sweeps.steps import states


def submit(path: str, **options: object) -> int:
    return actions.run(path, launcher="slurm", worker=WORKER, **options)


def wait_done(cluster: Cluster, path: str) -> None:
    cluster.wait_until(lambda: set(states(path).values()) == {"done"}, f"not done: {states(path)}")


def arrays(launcher: SlurmLauncher) -> list[str]:
    """What would be submitted, in words."""
    return [batch.text for batch in launcher.batches(launcher.plan.states(), max_array_size())]


def task(path: str, cell: str) -> str:
    """The array task of a cell."""
    planned = plan(path)
    item = read_submissions(planned.folder)[-1]
    return f"{item.job}_{item.groups.index(planned.find(cell).group)}"
