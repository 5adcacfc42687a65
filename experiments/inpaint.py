"""`ablate sample`: images from a trained run, whole or as a part of a given image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from experiments.callbacks import device_of, write_png
from experiments.config import RunConfig
from experiments.errors import UserError, did_you_mean
from experiments.run import build_tokenizer, load_generator, prepare_process
from experiments.sampling import grid_labels, image_grid, sample_images
from experiments.store import Run

GRID_SCALE = 4


def sample_to_file(
    config: RunConfig,
    run: Run,
    out: Path,
    *,
    count: int | None,
    class_name: str | None,
    seed: int,
    known_from: Path | None = None,
    mask: str | None = None,
) -> None:
    """Write a grid of samples.

    Args:
        count: images; None = four per class, or eight of one class.
        class_name: one class by name or number; None = all.
        known_from, mask: keep an image's tokens but for those that the box "left,top,right,bottom" (pixels) touches.

    Raises:
        UserError: unknown class, a box outside the image, an image that cannot be read, a run that is not trained.
    """
    if not run.is_done():
        raise UserError(f"Run {run.id} is not trained yet; train it first: ablate train {config.preset}.")
    prepare_process(config)
    device = device_of(config)
    generator, tokenizer = load_generator(config, run, device), build_tokenizer(config).to(device)
    classes = config.generator.num_classes
    label = None if class_name is None else _label(class_name, config.data.class_names)
    labels = grid_labels(classes) if label is None else [label] * 8
    if count is not None:
        labels = [label if label is not None else i % classes for i in range(count)]
    known = None
    if known_from is not None and mask is not None:
        known = _known_tokens(config, tokenizer, known_from, mask, device, generator.mask_token)
    samples = sample_images(
        config,
        generator,
        tokenizer,
        labels,
        seed=seed,
        batch_size=config.evaluation.batch_size,
        device=device,
        known=known,
    )
    columns = classes if label is None else min(len(labels), 8)
    write_png(image_grid(samples.images, columns, scale=GRID_SCALE), out)


def _label(word: str, names: tuple[str, ...]) -> int:
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    matches = [i for i, name in enumerate(names) if word.lower() in name.lower()]
    if len(matches) != 1:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(f"--class '{word}' names no single class.{did_you_mean(word, names)} Classes: {listed}.")
    return matches[0]


def _known_tokens(
    config: RunConfig, tokenizer, file: Path, mask: str, device: torch.device, mask_token: int
) -> torch.Tensor:
    """Tokens (L,) of the image in `file`, `mask_token` where the box is."""
    size, step = config.tokenizer.image_size, config.tokenizer.downsample
    try:
        left, top, right, bottom = (int(part) for part in mask.split(","))
    except ValueError as error:
        raise UserError(f"--mask '{mask}' is not LEFT,TOP,RIGHT,BOTTOM in pixels, for example 8,8,24,24.") from error
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise UserError(f"--mask {mask} does not lie in the {size} x {size} image (0 <= left < right <= {size}).")
    try:
        with Image.open(file) as picture:
            rgba = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    except OSError as error:
        raise UserError(f"{file} is not an image that can be read.") from error
    white = Image.new("RGBA", rgba.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    tokens = tokenizer.encode_uint8(torch.from_numpy(pixels.copy())[None].to(device))[0]
    hidden = torch.zeros(size // step, size // step, dtype=torch.bool, device=device)
    hidden[top // step : -(-bottom // step), left // step : -(-right // step)] = True
    return tokens.masked_fill(hidden.flatten(), mask_token)
