"""Lightning's Trainer for one run."""

from __future__ import annotations

import os
from inspect import signature
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from experiments.curves import Board
from experiments.errors import UserError
from experiments.process import device_of, precision_of
from experiments.ranks import started_together
from experiments.run_config import RunConfig, RuntimeConfig
from experiments.store import Run

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def build_trainer(config: RunConfig, run: Run, callbacks: list[L.Callback], purge_step: int) -> L.Trainer:
    """A Trainer that writes into the run's folder; checkpoints and metrics are the suite's own.

    Args:
        purge_step: TensorBoard forgets what an earlier attempt wrote from this step on.

    Raises:
        UserError: more devices than this machine has.
    """
    board = Board(run.folder, name="", version="tb", default_hp_metric=False, purge_step=purge_step)
    runtime, device = config.runtime, device_of(config)
    options: dict[str, Any] = dict(
        max_steps=config.trainer.max_steps,
        accelerator=device.type,  # by name: Lightning's own choice would be Apple's GPUs too, which lack float64
        devices=runtime.devices,
        num_nodes=runtime.num_nodes,
        strategy=_strategy(runtime),
        precision=PRECISION[precision_of(config, device)],
        accumulate_grad_batches=config.trainer.accumulate,
        callbacks=callbacks,
        logger=board,
        log_every_n_steps=runtime.log_every,
        val_check_interval=runtime.val_every * config.trainer.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=runtime.progress,
        enable_model_summary=False,
    )
    if device.type == "cuda" and runtime.progress:  # every number on the bar waits for the device
        options["callbacks"] = [*callbacks, TQDMProgressBar(refresh_rate=runtime.log_every)]
    if "SLURM_NTASKS" in os.environ and not started_together():
        # Lightning takes a batch script's count for processes that srun started, and would start none itself.
        options["plugins"] = [LightningEnvironment()]
    try:
        trainer = L.Trainer(**options)
    except MisconfigurationException as error:
        raise UserError(
            f"runtime.devices={runtime.devices} cannot be had here: {' '.join(str(error).split())}"
        ) from error
    if trainer.world_size != runtime.processes:  # the data would be cut for other processes
        raise UserError(
            f"runtime.devices={runtime.devices} x runtime.num_nodes={runtime.num_nodes} asks for other processes than "
            f"the {trainer.world_size} that train here; set the two to what was started."
        )
    return trainer


def _strategy(runtime: RuntimeConfig) -> str | Strategy:
    """How the processes of a run share it."""
    processes = runtime.processes
    if processes == 1:
        return "auto"
    if runtime.strategy == "ddp":
        # Every process builds the same buffers from the seed; what a process counts in one (codes used) is its own.
        return DDPStrategy(**_own_buffers())
    # One file of whole weights and optimiser states, as DDP writes it: either goes on from the other's checkpoints.
    return ModelParallelStrategy(processes, tensor_parallel_size=1, save_distributed_checkpoint=False)


def _own_buffers() -> dict[str, Any]:
    """The option, as this PyTorch names it, by which DDP does not hand out rank 0's buffers before a forward pass."""
    known = signature(DistributedDataParallel).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
