"""Checkpoints of the official Dimba and PixArt codes (PixArt-alpha, PixArt-Sigma), in this suite's layout."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.dimba import Dimba, position_table

POSITION_TOLERANCE = 5e-3
"""Of sines and cosines that were stored in 16 bits; another interpolation is off by tenths."""
PREFIXES = {
    "x_embedder.proj.": "patch_embed.",
    "t_embedder.mlp.": "time.mlp.",
    "t_block.1.": "adaln.project.",
    "y_embedder.y_proj.fc1.": "condition.project.0.",
    "y_embedder.y_proj.fc2.": "condition.project.2.",
    "final_layer.scale_shift_table": "head.table",
    "final_layer.linear.": "head.linear.",
}
BLOCK_PREFIXES = {
    "attn.qkv.": "attention.qkv.",
    "attn.proj.": "attention.out_proj.",
    "cross_attn.q_linear.": "cross_attention.q.",
    "cross_attn.kv_linear.": "cross_attention.kv.",
    "cross_attn.proj.": "cross_attention.out_proj.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.2.",
}


def official_architecture(mamba_depth: int, depth: int) -> dict[str, Any]:
    """The switches of `DimbaConfig` that make it the published network with so many Mamba and Transformer blocks.

    Raises:
        ValueError: the official code cannot build it.
    """
    gap = depth // mamba_depth if mamba_depth else 0
    if mamba_depth and len(range(depth) if gap == 1 else range(1, depth, gap)) != mamba_depth:
        raise ValueError(f"The official code cannot build {mamba_depth} Mamba blocks among {depth} Transformer blocks.")
    return {
        "attention_mamba_ratio": f"{gap}:1" if mamba_depth else "1:0",
        "mamba_position": "after",
        "mamba_group_place": "second",
        "mamba_adaln": False,
        "mamba_residual": "official",
        "null_mask": "prompt",
        "init": "official",
    }


def read_architecture(state: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of `DimbaConfig` that a published state dictionary shows; heads are 16 in all published sizes.

    Raises:
        ValueError: not a checkpoint of Dimba or PixArt.
    """
    try:
        embed, caption = state["x_embedder.proj.weight"], state["y_embedder.y_embedding"]
        out = state["final_layer.linear.weight"]
    except KeyError as error:
        raise ValueError(f"These weights are not of Dimba or PixArt: {error} is missing.") from error
    depth, mamba_depth = (
        len({key.split(".")[1] for key in state if key.startswith(prefix)}) for prefix in ("blocks.", "mamba_blocks.")
    )
    if not depth:
        raise _incomplete("blocks.0.scale_shift_table")
    width, channels, patch, _ = embed.shape
    if len(out) not in (patch**2 * channels, 2 * patch**2 * channels):
        raise ValueError(f"These weights predict {len(out)} values a patch, which {channels} channels do not explain.")
    return {
        "latent_channels": channels,
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "text_tokens": caption.shape[0],
        "text_width": caption.shape[1],
        "learned_variance": len(out) == 2 * patch**2 * channels,
        **official_architecture(mamba_depth, depth),
    }


def from_official(model: Dimba, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dictionary for `model`; the position table, which is recomputed, is left out.

    Raises:
        ValueError: tensors that are missing, or that Dimba does not have; positions of another resolution.
    """
    own: dict[str, Tensor] = {}
    tables: dict[int, Tensor] = {}
    mixers: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(model.mamba_blocks))}
    for key, value in state.items():
        kind, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if key == "pos_embed":
            _check_positions(model.config, value)
            continue
        if key == "y_embedder.y_embedding":
            own["condition.null"] = value
        elif kind == "blocks" and name == "scale_shift_table":
            tables[int(number)] = value
        elif kind == "blocks":
            own[f"blocks.{number}.{_rename(name, BLOCK_PREFIXES)}"] = value
        elif kind == "mamba_blocks" and name.startswith("mixer.") and int(number) in mixers:
            mixers[int(number)][name.removeprefix("mixer.")] = value
        elif kind == "mamba_blocks":
            own[key] = value
        else:
            own[_rename(key, PREFIXES)] = value
    if lost := [i for i in range(len(model.blocks)) if i not in tables]:
        raise _incomplete(f"blocks.{lost[0]}.scale_shift_table")
    own["adaln.table"] = torch.stack([tables[i] for i in range(len(model.blocks))])
    for index, mixer in mixers.items():
        try:
            converted = model.mamba_blocks[index].mixer.from_vim(mixer)
        except KeyError as error:
            raise _incomplete(f"mamba_blocks.{index}.mixer.{error.args[0]}") from error
        own |= {f"mamba_blocks.{index}.mixer.{key}": value for key, value in converted.items()}
    return own


def _check_positions(config: DimbaConfig, published: Tensor) -> None:
    """The table (1, L, C) that the weights were trained with must be the one that is recomputed."""
    own = position_table(config)
    side, patches = config.grid_size // config.patch_size, published.numel() // config.width
    if patches != len(own):
        raise ValueError(
            f"These weights have positions for {math.isqrt(patches)} patches a side, this configuration for {side}; "
            f"multiply tokenizer.image_size by {math.isqrt(patches) / side:g}."
        )
    if not torch.allclose(published.reshape(own.shape).float(), own, atol=POSITION_TOLERANCE):
        raise ValueError(
            f"The positions of these weights are not those of generator.pe_interpolation={config.pe_interpolation}; "
            "set that of their training (PixArt-Sigma and Dimba: 1 at 512 pixels, 2 at 1024, 4 at 2048)."
        )


def _incomplete(key: str) -> ValueError:
    return ValueError(f"This checkpoint of Dimba or PixArt is incomplete: it has no '{key}'.")


def _rename(key: str, prefixes: dict[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    raise ValueError(f"'{key}' is no tensor of the official Dimba or PixArt.")
