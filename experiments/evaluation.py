"""One evaluation of a trained run: sample, in parts that many processes can share, then measure. Resumable."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from experiments.conditions import Conditions, evaluation_conditions, grid_columns
from experiments.config import save_config, to_dict
from experiments.evaluator import build_evaluator
from experiments.files import atomic_path
from experiments.pictures import GRID_ROWS, captioned_grid, write_png
from experiments.process import device_of, prepare_process
from experiments.provenance import provenance
from experiments.ranks import is_leader, rank, world_size
from experiments.run import build_tokenizer, load_generator
from experiments.run_config import RunConfig
from experiments.runs import not_trained
from experiments.sampling import sample_images
from experiments.shards import Draw, Shards
from experiments.store import Evaluation, Run
from lightning_modules.kernels import backends_used, reset_backends_used

log = logging.getLogger("ablate")


def evaluate(config: RunConfig, run: Run, wait: bool = False) -> Evaluation:
    """Sample from a finished run and measure the samples, or find it done.

    Of the ranks of a distributed run, all draw samples and the first one measures. A process that was started alone
    with `runtime.devices` above 1 starts one more for each further device, for the time of sampling.

    Raises:
        UserError: the run is not trained yet, or its weights are damaged.
    """
    prepare_process(config)
    check_trained(run)
    evaluation = run.prepare_evaluation(config)
    if not is_leader():
        if not evaluation.is_done():
            draw_share(config, run, evaluation, rank(), world_size())
        return evaluation
    with evaluation.claim(wait=wait, devices=config.runtime.devices) as mine:
        if mine:
            _evaluate(config, run, evaluation)
    return evaluation


def check_trained(run: Run) -> None:
    """Raise UserError where there is nothing to sample from yet."""
    if not run.is_done():
        raise not_trained(run)


def drawer(config: RunConfig, run: Run, conditions: Conditions, seed: int, progress: Any = lambda done: None) -> Draw:
    """A function that draws any of the images under `conditions`; the model is built when it is first called."""
    built: list[tuple[nn.Module, Any]] = []  # generator and tokenizer

    def draw(span: range) -> tuple[np.ndarray, float]:
        device = device_of(config)
        if not built:
            built.append((load_generator(config, run, device), build_tokenizer(config).to(device)))
        samples = sample_images(
            config,
            *built[0],
            conditions,
            span=span,
            seed=seed,
            batch_size=config.evaluation.batch_size,
            device=device,
            progress=progress,
        )
        return samples.images, samples.seconds

    return draw


def draw_share(config: RunConfig, run: Run, evaluation: Evaluation, worker: int, workers: int) -> None:
    """Draw one worker's share of an evaluation's images, for another process that measures them."""
    conditions = evaluation_conditions(config, device_of(config))
    draw = drawer(config, run, conditions, config.evaluation.seed)
    gathered = evaluation.samples_path.exists  # by a process that drew the rest of this share as well
    evaluation_shards(evaluation, config).fill(draw, worker, workers, alone=True, needless=gathered)


def evaluation_shards(evaluation: Evaluation, config: RunConfig) -> Shards:
    """The parts that an evaluation's images are drawn in."""
    return Shards(evaluation.folder / "shards", config.evaluation.num_samples)


def _evaluate(config: RunConfig, run: Run, evaluation: Evaluation) -> None:
    started = time.time()
    reset_backends_used()
    evaluator = build_evaluator(config)  # before any work: what does not fit must cost no samples
    conditions = evaluation_conditions(config, device_of(config))
    count, shards = len(conditions), evaluation_shards(evaluation, config)
    log.info("sampling %d images from %s", count, run.id)

    def progress(drawn: int) -> None:
        evaluation.update(phase="sample", step=min(shards.done + drawn, count), max_steps=count)

    with _helpers(config, shards) as workers:
        shards.fill(drawer(config, run, conditions, config.evaluation.seed, progress), 0, workers)
    images, seconds = shards.gather()
    _write_samples(config, evaluation, images, conditions)
    evaluation.update(phase="evaluate", step=count, max_steps=count)
    log.info("measuring %d images", count)
    measured = evaluator.measure(images, conditions)
    metrics = {**measured.metrics, "seconds_per_image": seconds / count}
    evaluation.write_result(
        {
            "schema": 1,
            "eval_id": evaluation.id,
            "run_id": run.id,
            "metrics": finite(metrics),
            "not_finite": not_finite(metrics),
            "protocol": {"num_samples": count, **measured.protocol, "sampler": to_dict(config)["sampler"]},
            "replicates": measured.replicates,
            "provenance": provenance(config, backends_used(), started, evaluation.attempts),
        }
    )
    shards.remove()


def _write_samples(config: RunConfig, evaluation: Evaluation, images: np.ndarray, conditions: Conditions) -> None:
    with atomic_path(evaluation.samples_path) as temporary, open(temporary, "wb") as file:
        captions = {"captions": np.array(conditions.captions)} if conditions.captions else {}
        # numpy's stub takes ** for its option allow_pickle, a bool
        np.savez_compressed(file, arr_0=images, labels=conditions.labels, **captions)  # type: ignore[arg-type]
    columns = grid_columns(config)
    shown = GRID_ROWS * columns
    grid = captioned_grid(images[:shown], conditions.captions[:shown], columns, scale=2)
    write_png(grid, evaluation.grid_path)


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without what is not a number, for which JSON has no word."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def not_finite(metrics: dict[str, float]) -> list[str]:
    """The names of what `finite` leaves out."""
    return [key for key, value in metrics.items() if not math.isfinite(value)]


@contextmanager
def _helpers(config: RunConfig, shards: Shards) -> Iterator[int]:
    """How many processes draw meanwhile, this one included: the ranks of a distributed run, or, where this process was
    started alone, one that is started here for each further device that it may use."""
    count = min(config.runtime.devices, len(shards.missing())) if world_size() == 1 else 1
    processes = []
    if count > 1:
        path = shards.folder / "config.yaml"
        save_config(config, path)
        # Only this part: there may be fewer of them than processes in the training, which would refuse such a number.
        command = [sys.executable, "-m", "experiments.cli", "execute", str(path), "--part", "evaluate"]
        for number in range(1, count):
            ranks = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
            processes.append(subprocess.Popen(command, env={**os.environ, **ranks}))
    try:
        yield max(count, world_size())
    finally:
        for process in processes:
            process.terminate()
            process.wait()
