"""One evaluation of a trained run: sample, in parts that many processes can share, then measure. Resumable."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from experiments.advice import check_trained
from experiments.build import build_tokenizer, load_generator
from experiments.conditions import Conditions, evaluation_conditions, grid_columns
from experiments.config import save_config, to_dict
from experiments.evaluator import build_evaluator
from experiments.files import atomic_path
from experiments.pictures import GRID_ROWS, kept_grid, write_png
from experiments.process import device_of, prepare_process
from experiments.provenance import code_of, provenance, ran_with
from experiments.ranks import is_leader, rank, world_size
from experiments.run_config import RunConfig
from experiments.sampling import sample_images
from experiments.shards import Draw, Shards
from experiments.snapshots import sampled_weights, snapshot_facts
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


def drawer(
    config: RunConfig,
    run: Run,
    conditions: Conditions,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Draw:
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
    reset_backends_used()
    conditions = evaluation_conditions(config, device_of(config))
    draw = drawer(config, run, conditions, config.evaluation.seed)
    gathered = evaluation.samples_path.exists  # by a process that drew the rest of this share as well
    shards, drawn_with = evaluation_shards(evaluation, config), partial(_ran_with, config)
    shards.fill(draw, worker, workers, alone=True, needless=gathered, drawn_with=drawn_with)


def evaluation_shards(evaluation: Evaluation, config: RunConfig) -> Shards:
    """The parts that an evaluation's images are drawn in."""
    return Shards(evaluation.folder / "shards", config.evaluation.num_samples)


def _evaluate(config: RunConfig, run: Run, evaluation: Evaluation) -> None:
    started = time.time()
    reset_backends_used()
    sampled_weights(config, run)  # before any work: what is not there, or does not fit, must cost no samples
    evaluator = build_evaluator(config)
    conditions = evaluation_conditions(config, device_of(config))
    count, shards = len(conditions), evaluation_shards(evaluation, config)
    log.info("sampling %d images from %s", count, run.id)

    def progress(drawn: int) -> None:
        evaluation.update(phase="sample", step=min(shards.done + drawn, count), max_steps=count)

    with _helpers(config, run, shards) as workers:
        draw = drawer(config, run, conditions, config.evaluation.seed, progress)
        shards.fill(draw, 0, workers, drawn_with=partial(_ran_with, config))
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
            **snapshot_facts(config, run),
            "metrics": finite(metrics),
            "not_finite": not_finite(metrics),
            "protocol": {"num_samples": count, **measured.protocol, "sampler": to_dict(config)["sampler"]},
            "replicates": measured.replicates,
            "provenance": {
                **provenance(config, backends_used(), started, evaluation.attempts, processes=workers),
                **_sampled_by_others(config, shards),
            },
        }
    )
    shards.remove()


def _ran_with(config: RunConfig) -> dict[str, Any]:
    return ran_with(config, backends_used())


def _sampled_by_others(config: RunConfig, shards: Shards) -> dict[str, Any]:
    """What provenance says of who drew the images, where that was not this process alone, or with other kernels than it
    has run by now."""
    parts, here = shards.sampled_by(), _ran_with(config)
    if others := sum(part["images"] for part in parts if code_of(part) != code_of(here)):
        log.warning("%d of the %d images were drawn before by other code; the result names it", others, shards.count)
    return {} if parts == [{"images": shards.count, **here}] else {"sampled_by": parts}


def _write_samples(config: RunConfig, evaluation: Evaluation, images: np.ndarray, conditions: Conditions) -> None:
    with atomic_path(evaluation.samples_path) as temporary, open(temporary, "wb") as file:
        captions = {"captions": np.array(conditions.captions)} if conditions.captions else {}
        # numpy's stub takes ** for its option allow_pickle, a bool
        np.savez_compressed(file, arr_0=images, labels=conditions.labels, **captions)  # type: ignore[arg-type]
    columns = grid_columns(config)
    shown = GRID_ROWS * columns
    grid = kept_grid(images[:shown], conditions.captions[:shown], columns)
    write_png(grid, evaluation.grid_path)


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """Without what is not a number, for which JSON has no word."""
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}


def not_finite(metrics: dict[str, float]) -> list[str]:
    """The names of what `finite` leaves out."""
    return [key for key, value in metrics.items() if not math.isfinite(value)]


@contextmanager
def _helpers(config: RunConfig, run: Run, shards: Shards) -> Iterator[int]:
    """How many processes draw meanwhile, this one included: the ranks of a distributed run, or, where this process was
    started alone, one that is started here for each further device that it may use."""
    count = min(config.runtime.devices, len(shards.missing())) if world_size() == 1 else 1
    processes = []
    if count > 1:
        path = shards.folder / "config.yaml"
        save_config(config, path)
        # Only this part: "all" would train, and refuse to with another number of processes than `runtime` says.
        command = [sys.executable, "-m", "experiments.cli", "execute", str(path), "--part", "evaluate"]
        command += ["--run", str(run.folder)]  # which may lie outside of every root
        for number in range(1, count):
            ranks = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
            processes.append(subprocess.Popen(command, env={**os.environ, **ranks}))
    try:
        yield max(count, world_size())
    finally:
        for process in processes:
            if code := process.poll():  # it ended, and with an error
                log.warning("a process that was to draw samples too ended with exit code %d; others drew them", code)
            process.terminate()
            process.wait()
