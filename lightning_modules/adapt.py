"""Weights of one network as the start of another that differs in resolution only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.checkpoints import check_keys, read_weights

POSITION = "position"
"""Learned tables of positions have this in their name: (L, C), one row for each place of a square grid."""


def adapt(file: Path, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Read weights for a network that may have another number of positions.

    Args:
        file: safetensors.
        expected: the network's `state_dict()`.

    Returns:
        the state, in which tables of positions are resized bicubically (the interpolation of fixed sinusoids is the
        network's own), and the names of those tables.

    Raises:
        FileNotFoundError, ValueError: no such file, or weights that differ in anything else.
    """
    found = read_weights(Path(file))
    resized = []
    for key in found.keys() & expected.keys():
        if POSITION in key and found[key].shape != expected[key].shape and _are_grids(found[key], expected[key]):
            found[key] = _resize(found[key], len(expected[key]))
            resized.append(key)
    check_keys(file, found, expected)
    return {key: value.to(expected[key].dtype) for key, value in found.items()}, sorted(resized)


def _are_grids(old: Tensor, new: Tensor) -> bool:
    squares = all(table.dim() == 2 and round(len(table) ** 0.5) ** 2 == len(table) for table in (old, new))
    return squares and old.shape[1] == new.shape[1]


def _resize(table: Tensor, length: int) -> Tensor:
    """(L, C) -> (L', C), both square grids."""
    side, wanted = round(len(table) ** 0.5), round(length**0.5)
    grid = table.float().T.reshape(1, -1, side, side)
    return F.interpolate(grid, (wanted, wanted), mode="bicubic").flatten(2)[0].T
