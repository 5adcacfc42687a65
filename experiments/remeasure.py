"""Measure the samples of a finished evaluation once more: with a metric that was added since, without sampling."""

from __future__ import annotations

import shlex
import time
from typing import Any

import numpy as np

from experiments.conditions import Conditions
from experiments.config import build_config, to_dict
from experiments.errors import UserError
from experiments.evaluation import finite, not_finite
from experiments.evaluator import build_evaluator
from experiments.files import atomic_write_json, reading
from experiments.flat import flatten
from experiments.identity import EVALUATION, evaluation_id
from experiments.presets import read_chain
from experiments.process import prepare_process
from experiments.provenance import provenance
from experiments.run_config import RunConfig
from experiments.runs import evaluation_words
from experiments.store import Evaluation, Run


def chosen_evaluation(config: RunConfig, run: Run) -> RunConfig:
    """What `--again` measures where no words say which: the evaluation that `config` asks for, else the newest."""
    newest = run.newest_evaluation()
    if newest is None or run.evaluation(evaluation_id(config)).is_done():
        return config
    stored = read_chain(newest.config_path)
    return build_config({**to_dict(config), **{section: stored[section] for section in EVALUATION}}, trains=False)


def measure_again(config: RunConfig, run: Run) -> Evaluation:
    """Replace the numbers of the evaluation that `config` asks for by those that its kept samples give today.

    What the samples are, when and where they were drawn stays as it was; "measured_again" says what measured them.

    Raises:
        UserError: it was never measured, or its samples are gone or cannot be read.
    """
    prepare_process(config)
    evaluation = run.evaluation(evaluation_id(config))
    old = evaluation.result()
    if old is None or not evaluation.samples_path.exists():
        raise UserError(
            f"{evaluation.folder} holds no finished evaluation; leave --again out to sample and measure."
            + _others(run, config)
        )
    run.prepare_evaluation(config)  # refuses one of other settings
    started = time.time()
    images, conditions = _samples(evaluation, old)
    measured = build_evaluator(config).measure(images, conditions)
    kept = {name: old["metrics"][name] for name in ("seconds_per_image",) if name in old["metrics"]}
    atomic_write_json(
        evaluation.result_path,
        {
            **old,
            "metrics": finite({**measured.metrics, **kept}),
            "not_finite": not_finite(measured.metrics),
            "protocol": {"num_samples": len(images), **measured.protocol, "sampler": old["protocol"].get("sampler")},
            "replicates": measured.replicates,
            "measured_again": provenance(config, {}, started, evaluation.attempts, processes=1),
        },
    )
    return evaluation


def _others(run: Run, config: RunConfig) -> str:
    """The finished evaluations of a run, by the words that ask for them."""
    usual = flatten(to_dict(config))
    words = [
        shlex.join(evaluation_words(evaluation, usual))
        for evaluation in run.evaluations()
        if evaluation.is_done() and evaluation.samples_path.exists()
    ]
    return f" There are samples of: {'; '.join(words)}." if words else ""


def _samples(evaluation: Evaluation, result: dict[str, Any]) -> tuple[np.ndarray, Conditions]:
    origin = result["protocol"].get("prompts", "")
    way_out = f"remove {evaluation.folder} and leave --again out to sample and measure anew"
    with reading(evaluation.samples_path, way_out), np.load(evaluation.samples_path) as file:
        captions = tuple(str(text) for text in file["captions"]) if "captions" in file else ()
        return file["arr_0"], Conditions(file["labels"], captions, origin=origin)
