"""Presets of a person's own that a sweep names: where they are, and the copies that a begun sweep keeps of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from experiments.files import atomic_write_text
from experiments.presets import is_file_name, read_chain
from experiments.strict_yaml import load_yaml


def place_preset(name: str, folder: Path) -> str:
    """The preset that a sweep's file in `folder` names: of a file of one's own its full path, else `name`.

    A relative path is looked for beside the sweep, then in the working directory; beside a copy of the sweep lies a
    copy of its presets.
    """
    if not is_file_name(name):
        return name
    places = (folder / name, folder / _kept_name(name), Path(name))
    return str(next((place for place in places if place.is_file()), places[0]).resolve())


def keep_presets(definition: Path, folder: Path) -> None:
    """Copy the presets that the sweep in `definition` names, merged with those they are based on, into `folder`."""
    scales = load_yaml(definition.read_text(encoding="utf-8"))["scales"].values()
    parts = [part for scale in scales for part in (scale, *(scale.get("cells") or ()))]
    for name in {part["preset"] for part in parts if is_file_name(part.get("preset", ""))}:
        merged = read_chain(Path(place_preset(name, definition.parent)))
        atomic_write_text(folder / _kept_name(name), yaml.safe_dump(merged, sort_keys=False, allow_unicode=True))


def _kept_name(name: str) -> str:
    """Where the copy of a preset lies, by the path that the sweep has it under: two may end alike."""
    return f"presets/{hashlib.sha256(name.encode()).hexdigest()[:8]}-{Path(name).name}"
