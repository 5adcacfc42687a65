"""Make the embedded tokenizer from a stage-1 run's weights: python -m experiments.embed_tokenizer WEIGHTS

Weights are rounded to float16, measured on the held-out emoji as they will be used, and written with those figures in
their metadata; a picture of held-out originals above their reconstructions goes beside the README.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from datamodules.emoji.data import load_emoji
from experiments.files import atomic_path
from experiments.pictures import image_grid, write_png
from lightning_modules.checkpoints import save_safetensors
from lightning_modules.tokenizers.config import EMBEDDED, EmojiVQConfig
from lightning_modules.tokenizers.emoji_vq import EmojiVQ

PICTURE = Path("docs/tokenizer.png")
COLUMNS, PAIRS = 16, 4


@click.command()
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--note", required=True, help="How the weights were trained, for their metadata.")
def main(weights: Path, note: str) -> None:
    """Embed WEIGHTS (final.safetensors of a run of tokenizer/emoji) in the package."""
    state = EmojiVQ(EmojiVQConfig(weights=str(weights))).state_dict()
    with atomic_path(EMBEDDED) as temporary:
        save_safetensors(temporary, state, {}, half=True)
    tokenizer = EmojiVQ(EmojiVQConfig()).eval()
    held_out = load_emoji(split="val")
    images = torch.from_numpy(held_out.images)
    tokens = torch.cat([tokenizer.encode_uint8(part) for part in images.split(64)])
    decoded = torch.cat([tokenizer.decode_uint8(part) for part in tokens.split(64)])
    error = ((decoded.double() - images.double()) / 255).square().mean()
    share = torch.bincount(tokens.flatten(), minlength=tokenizer.quantize.embedding.num_embeddings) / tokens.numel()
    figures = {
        "val_psnr_db": f"{-10 * torch.log10(error).item():.2f}",
        "val_codebook_usage": f"{(share > 0).double().mean().item():.4f}",
        "val_codebook_perplexity": f"{torch.special.entr(share).sum().exp().item():.1f}",
        "val_images": str(len(images)),
    }
    with atomic_path(EMBEDDED) as temporary:
        save_safetensors(
            temporary, tokenizer.state_dict(), {**figures, "trained": note, "data": held_out.fingerprint}, half=True
        )
    picks = np.random.default_rng(0).permutation(len(images))[: COLUMNS * PAIRS].reshape(PAIRS, COLUMNS)
    rows = [batch[row] for row in picks for batch in (held_out.images, decoded.numpy())]
    write_png(image_grid(np.concatenate(rows), COLUMNS, scale=2), PICTURE)
    click.echo(f"{EMBEDDED}: {figures}")


if __name__ == "__main__":
    main()
