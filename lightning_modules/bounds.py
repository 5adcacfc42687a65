"""Lower bounds of a configuration's numbers. Torch-free."""

from __future__ import annotations

from typing import Any


def check_least(config: Any, section: str, **bounds: int) -> None:
    """Raise ValueError for the first number below its bound, and name no other.

    Args:
        section: what stands before the key, such as "trainer".
        bounds: key -> the least value.
    """
    for key, bound in bounds.items():
        if (value := getattr(config, key)) < bound:
            raise ValueError(f"{section}.{key}={value} must be at least {bound}.")
