"""Which of the processes of one distributed run this is. Torch-free: asked before anything is set up."""

from __future__ import annotations

import os

from experiments.errors import UserError


def rank() -> int:
    """The number of this process among those that srun or Lightning started together; 0 alone."""
    return _number("RANK", "SLURM_PROCID", "LOCAL_RANK") or 0


def local_rank() -> int:
    """The number of this process among those on its machine: which GPU is its own."""
    return _number("LOCAL_RANK", "SLURM_LOCALID") or 0


def world_size() -> int:
    """How many processes were started together; 1 alone."""
    return _number("WORLD_SIZE", "SLURM_NTASKS") or 1


def started_together() -> bool:
    """Whether srun started this process as one of several; in a batch script, or as its only task, nobody did."""
    return (_number("SLURM_NTASKS") or 1) > 1


def check_world(expected: int) -> None:
    """Refuse to go on in another number of processes than the run is made for.

    Lightning would not: with devices=1 each of two srun tasks would train a whole copy of the run, and write its files.

    Raises:
        UserError: several processes were started together, but not `expected` ones, or by torchrun.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and world_size() > 1:  # its processes do not know which of them is rank 0
        raise UserError(
            "torchrun cannot start a training; start one process with runtime.devices=N, or as many with srun."
        )
    if (found := world_size()) > 1 and found != expected:
        raise UserError(
            f"{found} processes were started together, but runtime.devices x runtime.num_nodes = {expected}; start as "
            "many tasks (srun --nodes, --ntasks-per-node), or set the two to what was started."
        )


def is_leader() -> bool:
    """Whether this process is rank 0, of those that were started together; alone it is, too."""
    return rank() == 0


def _number(*names: str) -> int | None:
    """The first of these variables that is set; Slurm's count only in what srun started, not in a batch script."""
    for name in names:
        if name.startswith("SLURM_") and "SLURM_STEP_ID" not in os.environ:
            continue
        if value := os.environ.get(name):
            return int(value)
    return None
