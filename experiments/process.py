"""What a process that trains, samples or measures sets up first."""

from __future__ import annotations

import logging
import os
import warnings
from functools import cache

import torch

from experiments.allocator import keep_freed_memory
from experiments.environment import environment_kernels
from experiments.errors import UserError
from experiments.ranks import local_rank
from experiments.run_config import RunConfig
from lightning_modules.backends import ENVIRONMENT_VARIABLE
from lightning_modules.precision import computes_bfloat16

log = logging.getLogger(__name__)

EXPECTED = (
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of PyTorch
    ".*in eval mode at the start of training.*",  # the averaged weights
    ".*is smaller than the logging interval.*",  # epochs mean nothing here, steps are logged
    ".*does not have many workers.*",  # batches come out of memory maps
    ".*srun. command is available.*",  # one process, or Lightning starts the others
    ".*sync_dist=True.*",  # values are gathered before they are logged
    ".*functional.all_gather is deprecated.*",  # Lightning's own use of PyTorch
    ".*FSDP2-wrapped module .* returned a view.*",  # nothing is done to it in place
    ".*AccumulateGrad node's stream does not match.*",  # Lightning sets DDP up on a stream of its own
)
"""Warnings that tell a user nothing."""


def prepare_process(config: RunConfig) -> None:
    """Threads, kernels, memory, and Lightning's chatter down to warnings worth reading.

    Raises:
        UserError: a GPU that is not there, or a precision that the device does not have.
    """
    device = device_of(config)
    if config.trainer.precision == "fp16" and device.type == "cpu":  # Lightning would take bf16 instead
        raise UserError("trainer.precision=fp16 needs a GPU; take trainer.precision=bf16 or fp32 on a CPU.")
    if precision_of(config, device) != config.trainer.precision:
        _tell(f"This {device.type} device does not compute in bfloat16: float32 takes its place, and results say so.")
    if device.index is not None:
        torch.cuda.set_device(device)  # Triton and CUDA graphs work on the current one, wherever the tensors are
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message=message)
    keep_freed_memory()
    _force_kernels(config.runtime.kernels)
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")


_forced: list[tuple[str, str | None]] = []
"""The back ends that a run of this process forces, and what the environment named before."""


def _force_kernels(name: str) -> None:
    """As ABLATE_KERNELS; what an earlier run of this process forced is taken back. "auto": as the user has it."""
    if _forced:
        named, before = _forced.pop()
        if os.environ.get(ENVIRONMENT_VARIABLE) == named:
            del os.environ[ENVIRONMENT_VARIABLE]
            if before is not None:
                os.environ[ENVIRONMENT_VARIABLE] = before
    environment_kernels()  # a name that nobody has is told before anything is loaded
    if name != "auto":
        _forced.append((name, os.environ.get(ENVIRONMENT_VARIABLE)))
        os.environ[ENVIRONMENT_VARIABLE] = name


@cache
def _tell(text: str) -> None:
    """Warn, once in a process."""
    log.warning(text)


def device_of(config: RunConfig) -> torch.device:
    """Where sampling, evaluation and benchmarks run: of several processes on one machine, each on its own GPU.

    Raises:
        UserError: a GPU that is not there.
    """
    name = usable_device(config.runtime.device, "runtime.device=")
    if name == "cuda" and torch.cuda.device_count() > 1:
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    return torch.device(name)


def most_devices(config: RunConfig) -> int:
    """How many processes can sample at once on this machine: one a visible GPU, or one on a CPU, which they would only
    share."""
    return torch.cuda.device_count() if device_of(config).type == "cuda" else 1


def precision_of(config: RunConfig, device: torch.device) -> str:
    """What `trainer.precision` comes to on a device: "fp32" for bf16 that it does not compute in."""
    asked = config.trainer.precision
    return "fp32" if asked == "bf16" and not computes_bfloat16(device.type) else asked


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Mixed precision as `trainer.precision` asks for it, and the device has it."""
    precision = precision_of(config, device)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def usable_device(name: str, option: str) -> str:
    """ "cpu" or "cuda" for "auto" and themselves.

    Args:
        option: by which a user names it, for the error.

    Raises:
        UserError: cuda where there is none.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{option}cuda, but no GPU is visible (`ablate doctor` tells more); take {option}cpu or auto.")
    return name
