"""What this machine offers to workers: slots, with GPUs and CPU threads shared out among them. Torch-free."""

from __future__ import annotations

import os
import shutil
import subprocess

from experiments.errors import UserError
from experiments.provenance import cores
from experiments.run_config import RuntimeConfig


def gpus() -> list[str]:
    """Indices or ids of the GPUs this process may use, as CUDA_VISIBLE_DEVICES writes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [item for item in visible.split(",") if item and item != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            "nvidia-smi does not answer, so it is not known which GPUs there are; name them with "
            "CUDA_VISIBLE_DEVICES=0,1, or take runtime.device=cpu."
        ) from error
    return answer.stdout.split() if answer.returncode == 0 else []


class Slots:
    """Hands out places to work at.

    Args:
        jobs: workers at once; 0 = one per free set of GPUs, or one per core where there are none: small models gain
            less from threads than from company, and single threads do not stall each other on a busy machine.
        groups: how many trainings there are: more places than that are of no use.
        runtime: devices per run and whether GPUs are wanted at all.

    Raises:
        UserError: the machine has fewer GPUs than one run wants.
    """

    def __init__(self, jobs: int, groups: int, runtime: RuntimeConfig):
        if jobs < 0:
            raise UserError(f"--jobs {jobs} must be positive, or 0 to follow the machine.")
        available = [] if runtime.device == "cpu" else gpus()
        wanted = runtime.devices if available or runtime.device == "cuda" else 0
        if wanted and len(available) < wanted:
            raise UserError(f"A run wants {wanted} GPU(s) (runtime.devices), but this machine offers {len(available)}.")
        places = len(available) // wanted if wanted else cores()
        self.jobs = max(1, min(jobs or places, groups))
        # More jobs than sets of GPUs share them in turn.
        sets = [tuple(available[i * wanted : (i + 1) * wanted]) for i in range(places)] if wanted else [()]
        self._free = [sets[index % len(sets)] for index in range(self.jobs)]
        self.threads = max(1, cores() // self.jobs)

    def take(self) -> tuple[str, ...] | None:
        """GPUs of a free place (() on CPU), or None if all are taken."""
        return self._free.pop(0) if self._free else None

    def give_back(self, place: tuple[str, ...]) -> None:
        """Free a place."""
        self._free.append(place)
