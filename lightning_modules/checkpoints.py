"""Weights in files: safetensors with every key and shape checked against the network they are meant for."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_UNREADABLE = (
    *(SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError),
    *(LookupError, AssertionError, struct.error),  # of bytes that torch's unpickler takes for instructions
)
"""What damaged files and those of another kind raise."""


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


def read_weights(file: Path) -> dict[str, Tensor]:
    """As `read_part`, without the name."""
    return read_part(file)[1]


def read_part(file: Path, names: Sequence[str] = ("model", "state_dict")) -> tuple[str, dict[str, Tensor]]:
    """Read a state dictionary that somebody published, and the name that it has in its file.

    Either safetensors or a torch archive, which may hold it under one of `names`, the first that is there; "" where it
    is bare. Objects of a training framework that lie beside it, such as the callbacks in a checkpoint of Lightning, are
    passed over, not run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of another kind, or without a state dictionary.
    """
    if not file.is_file():
        raise FileNotFoundError(f"Weights {file} not found.")
    with open(file, "rb") as stream:
        start = stream.read(9)
    try:
        if start[8:] == b"{":  # eight bytes of length, then a JSON header
            return "", load_file(file)
        found = _load_tensors(file)
    except _UNREADABLE as error:
        raise ValueError(f"{file} is damaged or not a torch file ({type(error).__name__}).") from error
    name = ""
    if isinstance(found, dict):
        name = next((name for name in names if name in found), "")
        found = found.get(name, found)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        listed = " or ".join(f"'{name}'" for name in names)
        raise ValueError(f"{file} holds no state dictionary, neither bare nor under {listed}.")
    return name, found


class _PassedDict:
    """Stands for a class or function that a file names: calling it gives an empty dictionary, whatever it was."""

    def __new__(cls, *args: object) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


class _PassedNumber:
    """Stands for what numpy makes numbers of."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _load_tensors(file: Path) -> object:
    """`torch.load` that runs no code of the file and does not stop at classes it does not know."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # torch's format of before 2020 cannot be looked through
        names = []
    passed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_PassedNumber if name.startswith("numpy") else _PassedDict, name) for name in names
    ]
    with torch.serialization.safe_globals(passed):
        return torch.load(file, map_location="cpu", weights_only=True)


def split_unused(
    file: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights that a network takes, and the keys that it has no use for. Raises ValueError as `check_keys` does."""
    kept = {key: value for key, value in found.items() if key in expected}
    check_keys(file, kept, expected)
    return kept, sorted(found.keys() - expected.keys())


def check_keys(file: Path | str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have the same keys and shapes."""
    shapes = [k for k in expected.keys() & found.keys() if expected[k].shape != found[k].shape]
    _check_none(file, expected.keys() - found.keys(), found.keys() - expected.keys(), shapes)


def check_loaded(folder: Path, info: Mapping[str, Collection[str]]) -> None:
    """As `check_keys`, by what diffusers' `from_pretrained` says with `output_loading_info`: it leaves weights that the
    folder lacks as they were drawn, and passes over those that the network lacks."""
    _check_none(folder, info["missing_keys"], info["unexpected_keys"], [])


def _check_none(file: Path | str, missing: Collection[str], unused: Collection[str], shapes: Collection[str]) -> None:
    parts = [
        f"{len(keys)} {word} (first: {min(keys)})"
        for word, keys in (("missing", missing), ("unexpected", unused), ("of another shape", shapes))
        if keys
    ]
    if parts:
        raise ValueError(f"{file} does not fit this network: keys {', '.join(parts)}.")


def save_safetensors(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], half: bool = False) -> None:
    """Write weights with their metadata; `half` stores floating-point tensors as float16."""
    tensors = {
        k: v.detach().cpu().to(torch.float16 if half and v.is_floating_point() else v.dtype).contiguous()
        for k, v in state.items()
    }
    save_file(tensors, file, metadata=dict(metadata))
