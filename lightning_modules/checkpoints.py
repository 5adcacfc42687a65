"""Weights in files: safetensors with every key and shape checked against the network they are meant for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def load_safetensors(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read weights and check them against a network's state.

    Args:
        file: safetensors file.
        expected: the network's `state_dict()`: keys, shapes and the floating type to convert to.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, damaged, or made for another network.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"Weights {file} not found.")
    try:
        found = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error}).") from error
    check_keys(file, found, expected)
    return {key: value.to(expected[key].dtype) for key, value in found.items()}


def check_keys(file: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have the same keys and shapes."""
    missing, unused = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [k for k in expected.keys() & found.keys() if expected[k].shape != found[k].shape]
    if missing or unused or shapes:
        parts = [
            f"{len(keys)} {word} (first: {sorted(keys)[0]})"
            for word, keys in (("missing", missing), ("unexpected", unused), ("of another shape", shapes))
            if keys
        ]
        raise ValueError(f"{file} does not fit this network: keys {', '.join(parts)}.")


def save_safetensors(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], half: bool = False) -> None:
    """Write weights with their metadata; `half` stores floating-point tensors as float16."""
    tensors = {
        k: v.detach().cpu().to(torch.float16 if half and v.is_floating_point() else v.dtype).contiguous()
        for k, v in state.items()
    }
    save_file(tensors, file, metadata=dict(metadata))
