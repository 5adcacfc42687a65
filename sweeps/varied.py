"""Which keys of the configuration the cells of a sweep are meant to differ in."""

from __future__ import annotations

from experiments.flat import flatten
from experiments.presets import preset_path, read_chain
from sweeps.axes import Sweep
from sweeps.equal_compute import STEPS


def varied_keys(sweep: Sweep, scale: str) -> set[str]:
    """The axes' keys, those that are searched, and what the scale gives its cells by themselves or by their presets."""
    config = sweep.config.scales[scale]
    keys = {key for axis in sweep.axes for choice in axis.choices for key in choice.overrides}
    keys |= {item["key"] for item in sweep.config.search.get("space", [])}
    presets = {config.preset, *(part.preset for part in config.cells if part.preset)}
    chains = [flatten(read_chain(preset_path(name))) for name in presets]
    differ = {key for chain in chains for key in chain if any(other.get(key) != chain[key] for other in chains)}
    keys |= (differ - config.overrides.keys()) | {key for part in config.cells for key in part.set}
    return keys | {STEPS} if sweep.config.equal_compute else keys
