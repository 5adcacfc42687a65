"""Published weights become finished runs, which `ablate sample` and `ablate evaluate` take like any other."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.config import load_config
from experiments.files import atomic_path
from experiments.flat import flatten
from experiments.model_facts import build_facts
from experiments.networks import count_parameters
from experiments.provenance import provenance
from experiments.run_config import RunConfig
from experiments.store import Run, RunStore
from lightning_modules.checkpoints import read_part, read_weights, save_safetensors, split_unused
from lightning_modules.generators.config import GENERATORS
from lightning_modules.hashing import file_crc32, file_sha256
from lightning_modules.published.aim import read_aim
from lightning_modules.published.dimba import from_official, read_architecture
from lightning_modules.tokenizers.config import LlamaGenVQConfig
from lightning_modules.tokenizers.llamagen_vq import PARTS, layout


@dataclass
class Imported:
    """What came of an import."""

    path: Path
    """Folder of the run, or the tokenizer's file."""
    run_id: str = ""
    """Empty for a tokenizer."""
    keys: int = 0
    """Tensors that were taken over."""
    unused: list[str] = field(default_factory=list)
    """Keys of the file that the network has no use for."""
    notes: list[str] = field(default_factory=list)
    """What to know about these weights."""


def import_aim(file: Path, preset: str, overrides: Mapping[str, Any]) -> Imported:
    """Turn a published AiM checkpoint into a finished run.

    Args:
        file: `model.safetensors`, or a torch file of the generator with or without its tokenizer.
        preset: what the file does not say: data, objective, sampler.
        overrides: dotted keys of the run's configuration; `tokenizer.weights` where the file holds no tokenizer.

    Raises:
        UserError, ValueError, FileNotFoundError: not an AiM checkpoint, keys missing, or parts that do not fit.
    """
    started = time.time()
    state = read_weights(file)
    published = read_aim(state, load_config(preset, overrides).tokenizer.grid_size)
    values = {**flatten({"generator": asdict(published.config)}), **overrides}
    imported = {"imported": file_sha256(file)}
    config = load_config(preset, {**values, **imported})
    with torch.device("meta"):
        model = GENERATORS.build(config.generator)
    weights, unused = split_unused(file, published.weights, model.state_dict())
    keys = len(weights)
    if published.tokenizer is not None and config.tokenizer.name == "llamagen_vq" and not config.tokenizer.weights:
        inside = _store_tokenizer(file, published.tokenizer, config.tokenizer, config.root)
        values["tokenizer.weights"] = str(inside.path)
        config = load_config(preset, {**values, **imported})
        keys, unused = keys + inside.keys, unused + [f"vqvae.{key}" for key in inside.unused]
    done = finish_import(file, config, values, model, weights, started, unused, published.notes)
    return replace(done, keys=keys)


def import_dimba(file: Path, preset: str, overrides: Mapping[str, Any]) -> Imported:
    """Turn a checkpoint of the official Dimba or PixArt code into a finished run.

    Args:
        file: a torch file with "state_dict", as these codes write it.
        preset: what the file does not say: data, autoencoder, text encoder, sampler.
        overrides: dotted keys of the run's configuration, such as `tokenizer.weights` and `text_encoder.model`.

    Raises:
        UserError, ValueError, FileNotFoundError: not such a checkpoint, keys missing, or parts that do not fit.
    """
    started = time.time()
    state = read_weights(file)
    architecture = read_architecture(state)
    values = {f"generator.{key}": value for key, value in architecture.items()}
    values = {**values, "text_encoder.text_tokens": architecture["text_tokens"], **overrides}
    config = load_config(preset, {**values, "imported": file_sha256(file)})
    with torch.device("meta"):
        model = GENERATORS.build(config.generator)
    weights, unused = split_unused(file, from_official(model, state), model.state_dict())
    return finish_import(file, config, values, model, weights, started, unused)


def import_llamagen_vq(file: Path, root: Path) -> Imported:
    """Turn LlamaGen's `vq_ds16_c2i.pt` or `vq_ds8_c2i.pt` into a safetensors file under the root's tokenizers/.

    Of a training's checkpoint, which also holds averaged weights, these are taken.

    Raises:
        ValueError, FileNotFoundError: not such a file, or keys missing.
    """
    part, found = read_part(file, PARTS)
    levels = len({key.split(".")[2] for key in found if key.startswith("encoder.conv_blocks.")})
    if levels not in (4, 5):
        raise ValueError(
            f"{file} is no LlamaGen tokenizer: it has {levels} resolutions instead of 5 (VQ-16) or 4 (VQ-8)."
        )
    done = _store_tokenizer(file, found, LlamaGenVQConfig(downsample=16 if levels == 5 else 8), root)
    notes = ["These are the averaged weights ('ema') of a training's checkpoint, which LlamaGen's own code prefers."]
    return replace(done, notes=notes) if part == "ema" else done


def _store_tokenizer(file: Path, found: Mapping[str, Tensor], config: LlamaGenVQConfig, root: Path) -> Imported:
    """Write checked weights to root/tokenizers/, once; the name tells the content, wherever it came from."""
    weights, unused = split_unused(file, found, layout(config))
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode())
        digest.update(weights[key].contiguous().flatten().view(torch.uint8).numpy().data)  # numpy has no bfloat16
    name = f"{config.name}{config.downsample}-{digest.hexdigest()[:8]}.safetensors"
    target = root.resolve() / "tokenizers" / name
    if not target.exists():
        with atomic_path(target) as temporary:
            save_safetensors(temporary, weights, {})
    return Imported(target, "", len(weights), unused)


def finish_import(
    file: Path,
    config: RunConfig,
    values: Mapping[str, Any],
    model: nn.Module,
    weights: Mapping[str, Tensor],
    started: float,
    unused: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Imported:
    """Make a finished run of published weights, unless it is there already.

    Args:
        file: where the weights come from.
        config: the run's, with `imported`.
        values: dotted keys that make `config` of its preset, without `imported`.
        model: what the weights are of, by which parameters are counted; it may lie on the meta device.
        weights: under this suite's names.
        started: when the import began, in seconds since the epoch.
        unused: keys of the file that the network has no use for.
        notes: what to know about these weights.
    """
    notes = [*notes, *_what_evaluating_needs(config)]
    words = [f"{key}={value}" for key, value in {**values, "imported": config.imported}.items()]
    run = RunStore(config.root).prepare(config, words)
    with run.claim() as mine:
        if mine:
            origin = {"file": file.name, "notes": notes, "unused": list(unused)}
            _write(config, run, model, weights, origin, started)
    return Imported(run.folder, run.id, len(weights), list(unused), notes)


def _what_evaluating_needs(config: RunConfig) -> list[str]:
    """What is to be named for `ablate evaluate`, where the run itself does not."""
    notes, missing = [], config.data.lacks()
    if config.data.condition == "caption" and missing:
        notes.append(f"For captions to draw, it needs {missing}; or evaluation.prompt_file=FILE.")
    if not (config.data.has_images or config.evaluation.reference_file):
        notes.append("ablate evaluate needs evaluation.reference=FILE, statistics of real images (ablate reference).")
    return notes


def _write(
    config: RunConfig,
    run: Run,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    origin: dict[str, Any],
    started: float,
) -> None:
    """Write the weights, then the result, in this order: a result promises weights."""
    with atomic_path(run.final_weights) as temporary:
        save_safetensors(temporary, weights, {"run_id": run.id, "imported": config.imported})
    run.write_result(
        {
            "schema": 1,
            "run_id": run.id,
            "step": config.trainer.max_steps,
            "max_steps": config.trainer.max_steps,
            "weights_crc32": file_crc32(run.final_weights),
            "metrics": {},
            **count_parameters(model),
            "flops": build_facts(config).flops,
            "train_seconds": None,
            "samples_per_s": None,
            "peak_memory_bytes": None,
            "imported": {"sha256": config.imported, **origin},
            "provenance": provenance(config, {}, started, run.attempts),
        }
    )
