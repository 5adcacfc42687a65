"""Published folders in diffusers' layout: a pipeline with one sub-folder per part. Torch-free."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = "diffusion_pytorch_model.safetensors"


def part_weights(folder: Path, part: str, how: str) -> Path:
    """The weights of one part, such as `transformer` or `vqvae`.

    Args:
        folder: the pipeline's, or the part's own.
        how: the words by which a user names it, for the error.

    Raises:
        FileNotFoundError: there are none.
    """
    for place in (folder / part, folder):
        if (place / WEIGHTS).is_file():
            return place / WEIGHTS
    raise FileNotFoundError(
        f"{folder} holds no {part}/{WEIGHTS}; name a folder as published, such as amused-256, with {how}."
    )
