"""Configurations of the text encoders. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_modules.registry import Entry, Registry


@dataclass
class NoTextEncoderConfig:
    """No captions: generators are conditioned on class labels."""

    name: str = "none"

    def resolve(self) -> None:
        """Nothing to fill in."""


TEXT_ENCODERS = Registry(
    "text encoder",
    {"none": Entry(NoTextEncoderConfig, "lightning_modules.text_encoders.config:NoTextEncoderConfig")},
)
