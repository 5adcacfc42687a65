"""One run, end to end and resumable: train -> checkpoint -> weights -> sample -> evaluate.

Every step leaves its result in the run store, so that a run that was killed anywhere goes on from there, and a run that
is done is never done again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from datamodules.config import DATASETS
from datamodules.encoder import ImageEncoder
from experiments.callbacks import Checkpoints, Heartbeat, SampleGrid
from experiments.conditions import build_text_encoder
from experiments.config import to_dict
from experiments.curves import write_metrics
from experiments.errors import CellError, UserError
from experiments.failures import classify
from experiments.files import atomic_path
from experiments.history import Attempt
from experiments.identity import evaluation_id, run_id
from experiments.lineage import start_of
from experiments.memory import peak_memory_bytes, reset_peak_memory
from experiments.model_facts import build_facts
from experiments.process import device_of, prepare_process
from experiments.provenance import provenance
from experiments.ranks import check_world
from experiments.resolve import check_unchanged, resolve
from experiments.run_config import RunConfig
from experiments.runs import check_weights
from experiments.selection import Selection
from experiments.snapshots import Snapshots, sampled_weights, snapshot_steps
from experiments.status import Part
from experiments.store import Run, RunStore
from experiments.trainer import build_trainer
from lightning_modules.base import TrainingModule
from lightning_modules.checkpoints import load_safetensors, save_safetensors
from lightning_modules.config import OBJECTIVES
from lightning_modules.generators.config import GENERATORS
from lightning_modules.hashing import file_crc32
from lightning_modules.kernels import backends_used, reset_backends_used
from lightning_modules.sharding import load_whole_state, whole_state
from lightning_modules.tokenizers.config import TOKENIZERS

log = logging.getLogger("ablate")


# --- building ---------------------------------------------------------------------------------------------------------


def is_stage1(config: RunConfig) -> bool:
    """Whether the run trains a tokenizer instead of a generator."""
    return config.objective.name == "reconstruction"


def new_network(config: RunConfig) -> torch.nn.Module:
    """The network that the run trains, as its class starts it."""
    if is_stage1(config):
        return TOKENIZERS.build(replace(config.tokenizer, weights=""))
    return GENERATORS.build(config.generator)


def build_network(config: RunConfig) -> torch.nn.Module:
    """The network that the run trains, with initial weights that depend on the seed alone."""
    torch.manual_seed(config.seed)
    network: Any = new_network(config)
    if hasattr(network, "start_from_published"):
        network.start_from_published()
    return network


def build_module(config: RunConfig) -> TrainingModule:
    """The LightningModule of the run's objective."""
    module = OBJECTIVES.target(config.objective.name)(
        config.objective,
        build_network(config),
        config.optim,
        max_steps=config.trainer.max_steps,
        ema_decay=config.trainer.ema_decay,
        seed=config.seed,
    )
    if config.trainer.compile:
        module.model.compile()
    return module


def build_tokenizer(config: RunConfig) -> Any:
    """The frozen tokenizer, or None in stage 1."""
    return None if is_stage1(config) else TOKENIZERS.build(config.tokenizer).eval().requires_grad_(False)


def build_data(config: RunConfig, tokenizer: Any) -> L.LightningDataModule:
    """The data module, with token and text stores in the root's cache."""
    encoder = None
    if tokenizer is not None:
        encoder = ImageEncoder(
            lambda images: tokenizer.to(images.device).encode_uint8(images),
            config.tokenizer.fingerprint,
            config.tokenizer.vocab_size,
        )
    per_process = config.trainer.batch_size // (
        config.trainer.accumulate * config.runtime.devices * config.runtime.num_nodes
    )
    return DATASETS.target(config.data.name)(
        config.data,
        per_process,
        config.seed,
        config.runtime.num_workers,
        encoder,
        config.root / "cache",
        build_text_encoder(config, device_of(config)),
        config.trainer.accumulate,
    )


# --- training ---------------------------------------------------------------------------------------------------------


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
    check_world(config.runtime.devices * config.runtime.num_nodes)
    run = RunStore(config.root).prepare(config, overrides)
    with run.claim(
        wait=wait,
        on_wait=lambda owner: log.info("%s is being trained by %s; waiting", run.id, owner),
        devices=config.runtime.devices * config.runtime.num_nodes,
        most_repeats=config.runtime.most_equal_failures,
    ) as mine:
        if mine:
            _train(config, run, callbacks)
    return run


def _train(config: RunConfig, run: Run, more_callbacks: Sequence[L.Callback]) -> None:
    if config.imported:
        raise UserError(f"The weights of {run.id} were imported, not trained; run ablate import-checkpoint again.")
    started = time.time()
    reset_backends_used()
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
        selection.make_up(trainer, module, data, step)
    elif start is not None:
        start.put_into(config, module)
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


def count_parameters(network: torch.nn.Module) -> dict[str, int]:
    """All parameters, and those outside the tables (of tokens, positions, classes) that papers leave out at times."""
    total = sum(p.numel() for p in network.parameters())
    tables = {m.weight for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    tables |= {p for name, p in network.named_parameters() if name.rpartition(".")[2].startswith("position_")}
    return {"parameters": total, "non_embedding_parameters": total - sum(table.numel() for table in tables)}


def _median_rate(run: Run) -> float | None:
    """Samples per second of training, over all attempts, without validation and sampling."""
    rates = [line["train/samples_per_s"] for line in run.metrics() if line.get("train/samples_per_s")]
    return float(np.median(rates)) if rates else None


# --- after training ---------------------------------------------------------------------------------------------------


def load_generator(config: RunConfig, run: Run, device: torch.device) -> torch.nn.Module:
    """The generator in eval mode, trained to its end or up to `evaluation.snapshot`.

    Raises:
        UserError: its weights are damaged, or not there.
    """
    check_weights(run)
    generator = GENERATORS.build(config.generator)
    generator.load_state_dict(load_safetensors(sampled_weights(config, run), generator.state_dict()))
    return generator.to(device).eval().requires_grad_(False)


def execute(configs: list[RunConfig], wait: bool = True, part: Part = "all", folder: Path | None = None) -> None:
    """Train the run that the configurations share, unless it is done, then evaluate each of them; an evaluation that
    fails leaves the others alone.

    Args:
        part: only "train", or only "evaluate" a run that is trained already.
        folder: of "evaluate", the run's, where that is not in the root of the configurations.

    Raises:
        Exception: the training failed, or the first of the evaluations that failed.
    """
    if len({run_id(config) for config in configs}) != 1:
        raise UserError("The configurations of one worker must share their training.")
    from experiments.evaluation import evaluate  # which builds on this module

    if part == "evaluate":
        run = RunStore(configs[0].root).prepare(configs[0]) if folder is None else Run(folder)
    else:
        run = train(configs[0], wait=wait)
    failures: list[Exception] = []
    for config in configs if part != "train" and not is_stage1(configs[0]) else ():
        try:
            evaluate(config, run, wait=wait)
        except Exception as error:
            unexpected = not isinstance(error, UserError | CellError)
            log.error("evaluation %s: %s", evaluation_id(config), classify(error)[1], exc_info=unexpected)
            failures.append(error.with_traceback(None))  # whose frames would hold what was loaded on the GPU
    if failures:
        raise failures[0]
