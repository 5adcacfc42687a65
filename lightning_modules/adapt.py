"""Weights of one network as the start of another that differs in resolution only."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.checkpoints import check_keys
from lightning_modules.generators.base import TokenGenerator


def adapt(source: Path | str, found: Mapping[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Fit weights to a network that may have another number of positions.

    Args:
        source: where they are from, for errors.
        found: the weights, which are not changed; tensors on the meta device tell whether weights of their shapes fit.
        network: the one that is to start from them.

    Returns:
        the state, in which the image's rows of learned tables of positions (`TokenGenerator.learned_positions`) are
        resized bicubically (the interpolation of fixed sinusoids is the network's own), and the names of those tables.

    Raises:
        ValueError: a table that cannot be resized, or weights that differ in anything else.
    """
    state, expected = dict(found), network.state_dict()
    resized = []
    if isinstance(network, TokenGenerator):
        for key in network.learned_positions(0):
            if key in found and found[key].shape != expected[key].shape:
                state[key] = _resize(source, key, found[key], expected[key], network)
                resized.append(key)
    check_keys(source, state, expected)
    return {key: value.to(expected[key].dtype) for key, value in state.items()}, sorted(resized)


def _resize(source: Path | str, key: str, table: Tensor, expected: Tensor, network: TokenGenerator) -> Tensor:
    """(L + N, C) -> (L' + N, C); the N rows that are not the image's keep their values."""
    wanted = network.config.grid_size
    others = len(expected) - wanted**2
    length = len(table) - others
    side = isqrt(max(length, 0))
    if side == 0 or side**2 != length or table.shape[1:] != expected.shape[1:]:
        raise ValueError(
            f"The table of positions {key} of {source} cannot be resized from {tuple(table.shape)} to "
            f"{tuple(expected.shape)}: rows must be those of a square image and {others} more, the width equal."
        )
    before, split = network.learned_positions(length)[key], network.learned_positions(wanted**2)[key]
    image = torch.cat([table[:before], table[before + others :]])
    grid = image.float().T.reshape(1, -1, side, side)
    image = F.interpolate(grid, (wanted, wanted), mode="bicubic").flatten(2)[0].T.to(table.dtype)
    return torch.cat([image[:split], table[before : before + others], image[split:]])
