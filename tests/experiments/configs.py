"""Small configurations for tests of the store: no weights, no torch."""

from __future__ import annotations

from experiments.config import RunConfig, build_config


def small_config(**overrides: object) -> RunConfig:
    """A tiny run with a random tokenizer; overrides with `__` for the dot, e.g. trainer__max_steps=3."""
    raw = {
        "tokenizer": {"weights": ""},
        "generator": {"width": 32, "heads": 2, "depth": 2},
        "trainer": {"max_steps": 10},
    }
    return build_config(raw, {key.replace("__", "."): value for key, value in overrides.items()})
