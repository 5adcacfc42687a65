"""What follows from other values of a configuration: fingerprints of files, sizes that one part gives another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.config import DATASETS
from datamodules.store_folder import META
from experiments.checks import check_parts, check_processes
from experiments.errors import UserError, unknown
from experiments.flat import flatten
from experiments.lineage import start_of
from lightning_modules.hashing import file_sha256
from lightning_modules.metrics.config import IN_PLACE_OF
from lightning_modules.text_encoders.checkpoint import weights_fingerprint

if TYPE_CHECKING:
    from experiments.run_config import RunConfig

SIZES = {
    "tokenizer": ("vocab_size", "grid_size", "latent_channels"),
    "data": ("num_classes",),
    "text_encoder": ("text_tokens", "text_width", "pooled_width"),
}
"""Sizes of the generator that follow from another part; 0 in the generator means "as that part has it"."""
FILES = {
    "data.fingerprint": ("root", "source"),
    "tokenizer.fingerprint": ("weights",),
    "text_encoder.fingerprint": ("model",),
    "generator.pretrained_fingerprint": ("pretrained_ends",),
    "trainer.init_fingerprint": ("init_from",),
}
"""Fingerprint -> keys of its section that name the files it is taken of; where none does, they come with the suite."""


def resolve(config: RunConfig, *, trains: bool = True) -> RunConfig:
    """Fill in fingerprints and the generator's sizes, and check that the parts fit together.

    Args:
        trains: the configuration is to be trained. Where it is only sampled or measured, what a training starts from is
            not looked up, and whether its processes can share a batch is not checked.

    Raises:
        UserError: a file that is not there, or parts that do not fit.
    """
    try:
        if weights := config.tokenizer.weight_file():
            config.tokenizer.fingerprint = _fingerprint(weights, "tokenizer.weights")
        config.data.fit(config.tokenizer)
        config.data.resolve()
        if not config.trains_tokenizer:
            config.data.check_tokenizer(config.tokenizer)
        config.text_encoder.resolve()
        if trains and hasattr(config.generator, "resolve"):
            config.generator.resolve()
        for network in ("inception", "dinov2"):
            key = f"{network}_weights"
            if weights := getattr(config.evaluation, key):
                fingerprint = _fingerprint(Path(weights), f"evaluation.{key}")
                setattr(config.evaluation, f"{network}_fingerprint", fingerprint)
        if reference := config.evaluation.reference_file:
            named = f"evaluation.{config.evaluation.reference_key}"
            config.evaluation.reference_fingerprint = _fingerprint(Path(reference), named)
        if config.search.space and config.evaluation.inception_weights:
            config.search.metric = IN_PLACE_OF.get(config.search.metric, config.search.metric)
        _resolve_captions(config)
        if config.trainer.init_from and trains:
            config.trainer.init_fingerprint = start_of(config).fingerprint
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from error
    check_parts(config)
    if trains:
        check_processes(config)
    for section, keys in SIZES.items():
        for key in keys:
            _pass_on(config, section, key)
    return config


def check_unchanged(stored: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Check that the files of a stored training (data, weights of other parts) are still those that it was made with.

    Args:
        stored: its nested values as they were read; a fingerprint that they do not have is not compared.
        config: built from them, with fingerprints of today's files.
        path: where they were read, for the error.

    Raises:
        UserError: a file of the training was replaced, whose fingerprint and place are named.
    """
    then, now = flatten(stored), flatten(dataclasses.asdict(config))
    for key, names in FILES.items():
        if not then.get(key) or then[key] == now.get(key):
            continue
        section = key.partition(".")[0]
        given = [f"{section}.{name}={now[f'{section}.{name}']}" for name in names if now.get(f"{section}.{name}")]
        what = given[0] if given else f"{section}.name={now[f'{section}.name']}, which comes with the suite,"
        raise UserError(
            f"{what} is not what {path} was made with: its {key} was {then[key][:12]} and is {str(now.get(key))[:12]}. "
            "Put back what was there, or train a new run with what is there now."
        )


def _resolve_captions(config: RunConfig) -> None:
    """Fingerprints of what only runs on captions are evaluated with."""
    wanted = config.evaluation
    models = ("clip", "blip_vqa", "detector")
    for key in ("dataset", "prompt_file", *(f"{model}_weights" for model in models)):
        if getattr(wanted, key) and config.generator.condition == "class":
            raise ValueError(f"evaluation.{key} needs a run on captions; this one is conditioned on classes.")
    captioned = [name for name in DATASETS.names() if "caption" in DATASETS[name].config.possible]
    if wanted.dataset and wanted.dataset not in captioned:
        raise unknown("data set with captions (evaluation.dataset)", wanted.dataset, captioned)
    for model in models:
        if folder := getattr(wanted, f"{model}_weights"):
            setattr(wanted, f"{model}_fingerprint", weights_fingerprint(Path(folder)))
    if wanted.prompt_file:
        wanted.prompt_fingerprint = _fingerprint(Path(wanted.prompt_file), "evaluation.prompt_file")
    if wanted.dataset and wanted.dataset_root:
        meta = Path(wanted.dataset_root) / wanted.prompts / META
        wanted.dataset_fingerprint = _fingerprint(meta, "evaluation.dataset_root")


def _pass_on(config: RunConfig, section: str, key: str) -> None:
    """Set `generator.key` from a part that has it, or check that it is what the part has."""
    part, generator = getattr(config, section), config.generator
    if not hasattr(generator, key):
        return
    own, value = getattr(generator, key), getattr(part, key, 0)
    if value and own not in (0, value):
        raise UserError(
            f"generator.{key}={own} does not fit the {section} '{part.name}', which has {value}; "
            f"leave it at 0 to follow the {section}."
        )
    if not own and value:
        setattr(generator, key, value)
    if not value and section == "tokenizer" and not config.trains_tokenizer:
        raise UserError(f"generator.name={generator.name} needs a tokenizer with {key}; '{part.name}' has none.")


def _fingerprint(path: Path, key: str) -> str:
    if not path.is_file():
        what = "FOLDER" if path.name == META else "FILE"
        raise FileNotFoundError(f"{path} not found; name the {what.lower()} with {key}={what}.")
    return file_sha256(path)
