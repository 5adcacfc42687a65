"""Which of the processes of one distributed run this is. Torch-free: asked before anything is set up."""

from __future__ import annotations

import os


def is_leader() -> bool:
    """Whether this process is rank 0, of those that srun, torchrun or Lightning started together; alone it is, too."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name == "SLURM_PROCID" and "SLURM_STEP_ID" not in os.environ:
            continue  # a batch script, not something that srun started
        if value := os.environ.get(name):
            return int(value) == 0
    return True
