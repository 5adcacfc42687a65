"""One training, resumable: train -> checkpoint -> choose weights -> validate -> result.

Each of these steps leaves what it made in the run store: a run that was killed anywhere goes on from there, and one
that is done is never done again. Sampling and measuring are `experiments.evaluation`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from experiments.build import build_data, build_module, build_tokenizer
from experiments.callbacks import Checkpoints, Heartbeat, SampleGrid
from experiments.config import to_dict
from experiments.curves import write_metrics
from experiments.errors import UserError
from experiments.files import atomic_path
from experiments.history import Attempt
from experiments.lineage import start_of
from experiments.memory import peak_memory_bytes, reset_peak_memory
from experiments.model_facts import build_facts
from experiments.networks import count_parameters
from experiments.process import prepare_process
from experiments.provenance import provenance
from experiments.ranks import check_world
from experiments.resolve import check_unchanged, resolve
from experiments.run_config import RunConfig
from experiments.selection import Selection
from experiments.snapshots import Snapshots, snapshot_steps
from experiments.store import Run, RunStore
from experiments.trainer import build_trainer
from lightning_modules.base import TrainingModule
from lightning_modules.checkpoints import save_safetensors
from lightning_modules.hashing import file_crc32
from lightning_modules.kernels import backends_used, reset_backends_used
from lightning_modules.sharding import load_whole_state, whole_state

log = logging.getLogger("ablate")


def train(
    config: RunConfig, wait: bool = False, overrides: tuple[str, ...] = (), callbacks: Sequence[L.Callback] = ()
) -> Run:
    """Train a run, or go on with it, or find it done.

    Args:
        wait: wait for another live process that owns the run, instead of raising `Busy`.
        overrides: "key=value" words to keep for the reader.
        callbacks: further ones, that watch the training.

    Raises:
        UserError: a damaged checkpoint, an unwritable folder, data that cannot be read, a file that the run goes by
            and that was replaced since `config` was read.
    """
    prepare_process(config)
    check_world(config.runtime.processes)
    run = RunStore(config.root).prepare(config, overrides)
    with run.claim(
        wait=wait,
        on_wait=lambda owner: log.info("%s is being trained by %s; waiting", run.id, owner),
        devices=config.runtime.processes,
        most_repeats=config.runtime.most_equal_failures,
    ) as mine:
        if mine:
            _train(config, run, callbacks)
    return run


def _train(config: RunConfig, run: Run, more_callbacks: Sequence[L.Callback]) -> None:
    if config.imported:
        raise UserError(f"The weights of {run.id} were imported, not trained; run ablate import-checkpoint again.")
    # The configuration was read before the imports, and before whoever else trained this run was waited for.
    check_unchanged(to_dict(config), resolve(deepcopy(config)), run.config_path)
    start = start_of(config) if config.trainer.init_from else None
    tokenizer = build_tokenizer(config)
    module, data = build_module(config), build_data(config, tokenizer)
    step = _resume_step(run)
    run.truncate_metrics(step)
    selection, attempt = Selection(run, config), Attempt(run, config, step)
    callbacks: list[L.Callback] = [selection, attempt, Heartbeat(run, config), *more_callbacks]
    if tokenizer is not None:
        callbacks.append(SampleGrid(run, config, tokenizer, config.runtime.sample_every))
    callbacks.append(Snapshots(run, snapshot_steps(config)))
    checkpoints = Checkpoints(run.last_checkpoint, config.runtime.checkpoint_every)
    callbacks.append(checkpoints)
    trainer = build_trainer(config, run, callbacks, purge_step=step + 1)
    if step:
        selection.validate_missed(trainer, module, data, step)
    elif start is not None:
        with run.starting_from(start.run_id):  # which may be trained now, by other kernels
            start.put_into(config, module)
    started = time.time()
    reset_backends_used()
    reset_peak_memory()  # of what this process did before
    if step < config.trainer.max_steps and not selection.exhausted:
        with checkpoints.stop_on_signals():
            trainer.fit(module, data, ckpt_path=run.last_checkpoint if step else None, weights_only=False)
        step = trainer.global_step
    else:
        load_whole_state(module, _load_checkpoint(run.last_checkpoint)["state_dict"])
    if step != config.trainer.max_steps and not selection.exhausted:
        raise UserError(f"Training of {run.id} ended at step {step} of {config.trainer.max_steps}.")
    kept = selection.restore(module)
    final = trainer.validate(module, data, verbose=False)[0]
    _check_finite(run, final)
    if trainer.is_global_zero and kept is None and not _validated(run, step):
        write_metrics(trainer, run, step, final)  # the last step need not be a multiple of runtime.val_every
    end = {"step": step, "kept_step": kept or step, **selection.record(step)}
    weights = whole_state(module.sampling_model)
    if trainer.is_global_zero:  # the weights, then the result, in this order: a result promises weights
        _write_weights(run, weights, end["kept_step"], final)
        origin = {**provenance(config, backends_used(), started, run.attempts), **attempt.finish(step)}
        origin |= {} if start is None else {"started_from": start.record(config)}
        _write_result(config, run, module, final, end, origin)


def _validated(run: Run, step: int) -> bool:
    """Whether the run's curves have the validation of a step."""
    return any(key.startswith("val/") for line in run.metrics() if line["step"] == step for key in line)


def _resume_step(run: Run) -> int:
    """Optimiser steps in the last checkpoint; 0 if there is none."""
    return int(_load_checkpoint(run.last_checkpoint)["global_step"]) if run.last_checkpoint.exists() else 0


def _load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except Exception as error:
        raise UserError(
            f"Checkpoint {path} is damaged ({type(error).__name__}); remove it to train this run again from the start."
        ) from error


def _check_finite(run: Run, final: Mapping[str, float]) -> None:
    """Raise FloatingPointError where the last validation did not end in numbers."""
    for name, value in final.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The last validation of {run.id} found {name}={value}, so its weights are of no use; move "
                f"{run.folder} away and train with a lower optim.lr or trainer.precision=fp32."
            )


def _write_weights(run: Run, weights: dict[str, torch.Tensor], step: int, final: Mapping[str, float]) -> None:
    metadata = {"run_id": run.id, "steps": str(step), **{k: f"{v:.6g}" for k, v in final.items()}}
    with atomic_path(run.final_weights) as temporary:
        save_safetensors(temporary, weights, metadata)


def _write_result(
    config: RunConfig, run: Run, module: TrainingModule, final: Mapping[str, float], end: dict[str, Any], origin: Any
) -> None:
    """Declare the training done.

    Args:
        final: what the last validation found, of the weights that are kept.
        end: at which step training ended, and why, if not at the last one.
        origin: its provenance.
    """
    lines, rate = [line for line in run.metrics() if "train/loss" in line], _median_rate(run)
    facts = build_facts(config)
    metrics = {**({"train/loss": lines[-1]["train/loss"]} if lines else {}), **final}
    run.write_result(
        {
            "schema": 1,
            "run_id": run.id,
            "max_steps": config.trainer.max_steps,
            **end,
            "weights_crc32": file_crc32(run.final_weights),
            "metrics": {key: float(value) for key, value in metrics.items()},
            **count_parameters(module.model),
            "flops": facts.flops,
            "training_flops": facts.step_flops(config) * end["step"],
            "train_seconds": end["step"] * config.trainer.batch_size / rate if rate else None,
            "samples_per_s": rate,
            "peak_memory_bytes": peak_memory_bytes(),
            "provenance": origin,
        }
    )


def _median_rate(run: Run) -> float | None:
    """Samples per second of training, over all attempts, without validation and sampling."""
    rates = [line["train/samples_per_s"] for line in run.metrics() if line.get("train/samples_per_s")]
    return float(np.median(rates)) if rates else None
