"""Tensors computed by the official codes: where they are, and every case in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(os.environ.get("PARITY_FIXTURES", Path(__file__).parents[3] / "shared" / "fixtures"))


def load(name: str) -> dict[str, Any]:
    """Read a fixture file, or skip the module where the folder is absent."""
    if not (FOLDER / name).is_file():
        pytest.skip(
            f"no {name} in {FOLDER}; set PARITY_FIXTURES to the folder of official tensors", allow_module_level=True
        )
    return torch.load(FOLDER / name, weights_only=True)


def text(name: str) -> str:
    """Read a text file of the folder, or skip the module."""
    if not (FOLDER / name).is_file():
        pytest.skip(
            f"no {name} in {FOLDER}; set PARITY_FIXTURES to the folder of official tensors", allow_module_level=True
        )
    return (FOLDER / name).read_text()
