"""A published aMUSEd pipeline, a folder in diffusers' layout, becomes a finished run of `uvit`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config import load_config
from experiments.imports import Imported, finish_import
from lightning_modules.generators.config import GENERATORS
from lightning_modules.hashing import file_sha256
from lightning_modules.published.folders import part_weights
from lightning_modules.text_encoders.config import TEXT_ENCODERS

AESTHETIC_SCORE = 6.0
"""What aMUSEd's pipeline asks for."""
SIZES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ff_width": "intermediate_size",
    "embed_width": "in_channels",
    "end_width": "block_out_channels",
    "end_blocks": "num_res_blocks",
    "end_heads": "block_num_heads",
    "resample": "downsample",
    "micro_width": "micro_cond_encode_dim",
}
"""Field of `UViTConfig` -> key of diffusers' config.json."""


def import_amused(folder: Path, preset: str, overrides: Mapping[str, Any]) -> Imported:
    """Turn a published folder (amused-256, amused-512) into a finished run that samples like diffusers' pipeline.

    Args:
        folder: with transformer/, vqvae/, text_encoder/ and tokenizer/. The encoder's features of "" stand in for
            dropped captions from then on.
        preset: what the folder does not say: data, sampler.
        overrides: dotted keys of the run's configuration.

    Raises:
        UserError, ValueError, FileNotFoundError: not such a folder, parts that are damaged or do not fit.
    """
    started = time.time()
    file = part_weights(folder, "transformer", "ablate import-checkpoint amused FOLDER")
    values = {**_settings(folder), **overrides}
    config = load_config(preset, {**values, "imported": file_sha256(file)})
    model = GENERATORS.build(config.generator)
    model.load_published(folder)
    encoder = TEXT_ENCODERS.build(config.text_encoder)
    model.set_null_caption(encoder.encode([""]).padded(config.text_encoder.text_tokens))
    done = finish_import(file, config, values, model, model.state_dict(), started)
    return replace(done, keys=len(model.amused.state_dict()))  # without the null caption, which is computed


def _settings(folder: Path) -> dict[str, Any]:
    """What the folder says of the parts, by dotted key of the run's configuration."""
    network, tokenizer = (_read(folder / part / "config.json") for part in ("transformer", "vqvae"))
    try:
        downsample = 2 ** (len(tokenizer["block_out_channels"]) - 1)
        side = network["sample_size"] * downsample
        return {
            **{f"generator.{ours}": network[theirs] for ours, theirs in SIZES.items()},
            "generator.micro_conditions": [side, side, 0, 0, AESTHETIC_SCORE],
            "tokenizer.weights": str(folder),
            "tokenizer.image_size": side,
            "tokenizer.downsample": downsample,
            "tokenizer.codebook_size": network["codebook_size"],
            "text_encoder.model": str(folder),
            "text_encoder.text_width": network["encoder_hidden_size"],
            "text_encoder.pooled_width": network["cond_embed_dim"],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} does not describe an aMUSEd pipeline: its config.json lack {error}.") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; name a folder as published, such as amused-256.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not valid JSON.") from error
