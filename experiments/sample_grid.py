"""The picture of `ablate sample`: a grid of images from a trained run, whole or as a part of a given image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datamodules.tokenize.crops import adm_crop
from datamodules.tokenize.images import decode_image
from experiments.build import build_tokenizer, load_generator
from experiments.conditions import Conditions, caption_conditions, evaluation_conditions, grid_columns, grid_conditions
from experiments.errors import UserError
from experiments.pictures import GRID_ROWS, captioned_grid, write_png
from experiments.process import device_of, prepare_process
from experiments.run_config import RunConfig
from experiments.sampling import sample_images
from experiments.store import Run
from lightning_modules.names import did_you_mean

GRID_SCALE = 4
SINGLE = 8
"""Images of a single class or prompt, and their columns."""
LISTED = 12
"""Classes that an error names."""


def sample_to_file(
    config: RunConfig,
    run: Run,
    out: Path,
    *,
    count: int | None,
    class_name: str | None,
    prompts: tuple[str, ...] = (),
    seed: int,
    known_from: Path | None = None,
    mask: str | None = None,
) -> None:
    """Write a grid of samples.

    Args:
        count: images; None = the grid of training, or eight of one class or one prompt, four of each of several.
        class_name: one class by name or number; None = all.
        prompts: captions, for runs that are conditioned on captions.
        known_from, mask: keep an image's tokens but for those that the box "left,top,right,bottom" (pixels) touches.

    Raises:
        UserError: an unknown class, a box outside the image, an image that cannot be read.
    """
    prepare_process(config)
    device = device_of(config)
    generator, tokenizer = load_generator(config, run, device), build_tokenizer(config).to(device)
    conditions, columns = _conditions(config, class_name, prompts, count, device)
    known = None
    if known_from is not None and mask is not None:
        assert isinstance(generator.mask_token, int)
        known = _known_tokens(config, tokenizer, known_from, mask, device, generator.mask_token)
    samples = sample_images(
        config,
        generator,
        tokenizer,
        conditions,
        seed=seed,
        batch_size=config.evaluation.batch_size,
        device=device,
        known=known,
    )
    write_png(captioned_grid(samples.images, conditions.captions, columns, GRID_SCALE), out)


def _conditions(
    config: RunConfig, class_name: str | None, prompts: tuple[str, ...], count: int | None, device: torch.device
) -> tuple[Conditions, int]:
    """What is asked for, and the columns of its grid."""
    if prompts:
        each = SINGLE if len(prompts) == 1 else GRID_ROWS
        captions = [prompts[i % len(prompts)] for i in range(count or each * len(prompts))]
        columns = min(len(captions), SINGLE) if len(prompts) == 1 else len(prompts)
        return caption_conditions(config, captions, None, device), columns
    if class_name is not None:
        label = _label(class_name, config.data.class_names)
        return Conditions(np.full(count or SINGLE, label)), min(count or SINGLE, SINGLE)
    if count is None:
        return grid_conditions(config, device), grid_columns(config)
    return evaluation_conditions(config, device, count), grid_columns(config)


def _label(word: str, names: tuple[str, ...]) -> int:
    if word in names:  # first: a folder of digits names its class, whatever the number of that
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    matches = [i for i, name in enumerate(names) if word.lower() in name.lower()]
    if len(matches) != 1:
        shown = matches or range(len(names))
        listed = ", ".join(f"{i} {names[i]}" for i in shown[:LISTED])
        more = f", .. {shown[-1]} {names[shown[-1]]}" if len(shown) > LISTED else ""
        kind = f"fits {len(matches)} classes" if matches else f"is none of the {len(names):,} classes"
        raise UserError(f"--class '{word}' {kind}.{did_you_mean(word, names)} Classes: {listed}{more}.")
    return matches[0]


def _known_tokens(
    config: RunConfig, tokenizer, file: Path, mask: str, device: torch.device, mask_token: int
) -> torch.Tensor:
    """Tokens (L,) of the image in `file`, cropped as training images are, `mask_token` where the box is."""
    size, step = config.tokenizer.image_size, config.tokenizer.downsample
    try:
        left, top, right, bottom = (int(part) for part in mask.split(","))
    except ValueError as error:
        raise UserError(f"--mask '{mask}' is not LEFT,TOP,RIGHT,BOTTOM in pixels, for example 8,8,24,24.") from error
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise UserError(f"--mask {mask} does not lie in the {size} x {size} image (0 <= left < right <= {size}).")
    try:
        picture, _ = decode_image(file.read_bytes(), file.name)
    except (OSError, ValueError) as error:
        raise UserError(f"--known-from {file} cannot be used: {error}.") from error
    pixels = np.array(adm_crop(picture, size))
    tokens = tokenizer.encode_uint8(torch.from_numpy(pixels)[None].to(device))[0]
    hidden = torch.zeros(size // step, size // step, dtype=torch.bool, device=device)
    hidden[top // step : -(-bottom // step), left // step : -(-right // step)] = True
    return tokens.masked_fill(hidden.flatten(), mask_token)
