"""Networks of one table read captions by one rule."""

from __future__ import annotations

import pytest

from experiments.config import load_config
from sweeps.axes import labels_of
from sweeps.definition import load_sweep, matches, sweep_names

READ_BY = ("data.", "text_encoder.", "generator.")
"""What decides about captions; cells that differ in nothing of it are looked at once."""


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", [name for name in sweep_names() if load_sweep(name).config.measure == "evaluation"])
def test_empty_padding_is_read_by_nobody(name: str, scale: str) -> None:
    """Zeros behind a caption's words would stand between them and the image, for some networks and not for others."""
    sweep, cells = load_sweep(name), {}
    for choices in sweep.combinations(sweep.config.scales[scale].only):
        labels = labels_of(choices)
        if any(matches(labels, when) for when, _ in sweep.exclude):
            continue
        preset, base = sweep.base(scale, labels)
        set_by_axes = {key: value for choice in choices.values() for key, value in choice.overrides.items()}
        overrides = {k: v for k, v in {**base, **set_by_axes}.items() if k.startswith(READ_BY)}
        cells[preset, str(overrides)] = labels, overrides
    for (preset, _), (labels, overrides) in cells.items():
        config = load_config(preset, overrides)
        if config.data.condition != "caption":
            continue
        if getattr(config.text_encoder, "padding", "masked") == "masked":
            assert getattr(config.generator, "mask_padding", True), labels
        else:  # every place holds a state of the encoder, and the mask is full
            assert not getattr(config.generator, "mask_padding", False), labels
