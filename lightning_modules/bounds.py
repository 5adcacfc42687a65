"""Bounds of a configuration's numbers. Torch-free."""

from __future__ import annotations

import math
from typing import Any


def check_least(config: Any, section: str, **bounds: float) -> None:
    """Raise ValueError for the first number below its bound, or too large, and name no other.

    Args:
        section: what stands before the key, such as "trainer".
        bounds: key -> the least value.
    """
    for key, bound in bounds.items():
        if not (value := getattr(config, key)) >= bound:  # which NaN is not, either
            raise ValueError(f"{section}.{key}={value} must be at least {bound:g}.")
        _check_not_too_large(section, key, value)


def check_positive(config: Any, section: str, *keys: str) -> None:
    """Raise ValueError for the first of these numbers that is not above 0, or too large.

    Args:
        section: what stands before the key, such as "optim".
    """
    for key in keys:
        if not (value := getattr(config, key)) > 0:  # which NaN is not, either
            raise ValueError(f"{section}.{key}={value} must be positive.")
        _check_not_too_large(section, key, value)


def check_share(config: Any, section: str, *keys: str) -> None:
    """Raise ValueError for the first of these numbers that is not in [0, 1).

    Args:
        section: what stands before the key, such as "generator".
    """
    for key in keys:
        if not 0 <= (value := getattr(config, key)) < 1:
            raise ValueError(f"{section}.{key}={value} must be in [0, 1).")


def _check_not_too_large(section: str, key: str, value: float) -> None:
    if isinstance(value, int) and value >= 2**63:
        raise ValueError(f"{section}.{key}={value} must be less than 2**63.")
    if math.isinf(value):
        raise ValueError(f"{section}.{key}={value} must be a finite number.")
