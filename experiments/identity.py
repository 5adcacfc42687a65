"""What identifies a run: two hashes of its resolved configuration.

The *training* hash covers seed, data, tokenizer, generator, objective, optim and trainer; the *evaluation* hash adds
sampler and evaluation, so that a sweep over guidance trains once. `runtime` is part of neither, with one exception:
with `trainer.patience` validations may end a run, so `runtime.val_every` counts. (With `trainer.keep=best` they only
choose its weights; then the run store compares that key.) Values that equal their default are left out of the hash, so
that a new field with its default keeps old runs valid; a default that changes later is caught by comparing the stored
configuration. A benchmark has an identity of its own: what it times.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from experiments.flat import flatten
from experiments.run_config import RunConfig
from lightning_modules.backends import forced_backends

TRAINING = ("imported", "seed", "data", "tokenizer", "text_encoder", "generator", "objective", "optim", "trainer")
EVALUATION = ("sampler", "evaluation")
PLACES = frozenset(
    {
        "data.root",
        "data.source",
        "tokenizer.weights",
        "text_encoder.model",
        "generator.pretrained_ends",
        "trainer.init_from",
        "evaluation.inception_weights",
        "evaluation.dinov2_weights",
        "evaluation.clip_weights",
        "evaluation.blip_vqa_weights",
        "evaluation.detector_weights",
        "evaluation.prompt_file",
        "evaluation.dataset_root",
        "evaluation.dataset_reference",
        "evaluation.reference",
    }
)
"""Keys that may name a file or folder."""
NOT_SEMANTIC = PLACES | {
    *("text_encoder.revision", "data.image_size", "data.class_folders", "evaluation.batch_size", "search.jobs")
}
"""Keys that no hash covers: places of files, and what cannot change a result (sizes of batches, the number of
searchers). A file is covered by its fingerprint, and so is what was read out of it (`data.image_size`)."""


def semantic(config: RunConfig, sections: Iterable[str] = TRAINING) -> dict[str, Any]:
    """What identifies a run: the values of these sections that differ from their defaults, flat, by dotted key."""
    result: dict[str, Any] = {}
    for section in sections:
        value = getattr(config, section)
        if value == "" or getattr(value, "name", "") == "none":  # a part that the run does without
            continue
        if dataclasses.is_dataclass(value):
            _collect(value, section, result)
        else:
            result[section] = value
    if "trainer" in sections and config.trainer.patience:  # which counts validations
        result["runtime.val_every"] = config.runtime.val_every
    return result


def _collect(node: Any, prefix: str, result: dict[str, Any]) -> None:
    default = type(node)()
    for item in dataclasses.fields(node):
        key, value = f"{prefix}.{item.name}", getattr(node, item.name)
        if key in NOT_SEMANTIC:
            continue
        if dataclasses.is_dataclass(value):
            _collect(value, key, result)
        elif item.name == "name" or value != getattr(default, item.name):
            result[key] = _canonical(value)


def _canonical(value: Any) -> Any:
    """Numbers that are equal hash alike (1 and 1.0), tuples like lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def stored_semantic(values: Mapping[str, Any], sections: Collection[str]) -> dict[str, Any]:
    """What may identify a run in plain nested values, flat, by dotted key: defaults are among it, since another default
    may hold today, and no file is looked at, since it may have moved."""
    kept = {section: value for section, value in values.items() if section in sections}
    return {key: value for key, value in flatten(kept).items() if key not in NOT_SEMANTIC}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def training_hash(config: RunConfig) -> str:
    """Hex sha256 of the training identity."""
    return _digest(semantic(config, TRAINING))


def evaluation_hash(config: RunConfig) -> str:
    """Hex sha256 of the training and evaluation identities together."""
    return _digest(semantic(config, TRAINING + EVALUATION))


def run_id(config: RunConfig) -> str:
    """Folder name of the training: generator (or tokenizer, in stage 1) and eight digits of its hash."""
    name = config.tokenizer.name if config.trains_tokenizer else config.generator.name
    return f"{name}-{training_hash(config)[:8]}"


def evaluation_id(config: RunConfig) -> str:
    """Folder name of the evaluation inside its run's folder."""
    return evaluation_hash(config)[:8]


def benchmark_id(config: RunConfig) -> str:
    """Folder name of a benchmark: its kind and eight digits of the hash of everything that changes what is timed, back
    ends that the configuration forces among it."""
    wanted = ("seed", "benchmark", *config.benchmark.measures)
    values = semantic(config, dict.fromkeys(key.partition(".")[0] for key in wanted))
    kept = {k: v for k, v in values.items() if any(k == key or k.startswith(f"{key}.") for key in wanted)}
    if forced := forced_backends(config.runtime.kernels, "runtime.kernels"):
        kept["runtime.kernels"] = dict(forced)
    return f"{config.benchmark.name}-{_digest(kept)[:8]}"


def search_id(config: RunConfig) -> str:
    """Folder name of a search: the run without the keys that are searched, what is searched, and how."""
    searched = {axis.key for axis in config.search.space}
    values = {k: v for k, v in semantic(config, TRAINING + EVALUATION).items() if k not in searched}
    return f"{config.generator.name}-{_digest({**values, **semantic(config, ('search',))})[:8]}"
