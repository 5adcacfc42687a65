"""The configuration of one run: load a preset, apply overrides, fill in what follows, check, store."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.config import DATASETS
from datamodules.emoji.config import EmojiConfig
from experiments.errors import UserError, unknown
from experiments.files import atomic_write_text, default_root
from experiments.identity import PLACES
from experiments.overrides import explain, flat_sections, misplaced, parse_overrides, update
from experiments.presets import is_file_name, preset_names, preset_path, read_chain
from experiments.resolve import check_unchanged, resolve
from experiments.run_config import SECTIONS, RunConfig
from experiments.unread import refuse_changes, unread

# --- loading ----------------------------------------------------------------------------------------------------------


def load_config(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """Load a preset (a name, or a path to a YAML file), apply overrides, resolve and check.

    Args:
        preset: `maskmamba/demo`, or `path/to/mine.yaml`.
        overrides: "key=value" strings as typed by a person, or a mapping of dotted keys to values.

    Raises:
        UserError: unknown preset or key, a value of the wrong type or out of range, another value typed for a key
            that is not read.
    """
    typed = None if isinstance(overrides, Mapping) else parse_overrides(overrides)
    config = resolve(load_unresolved(preset, overrides if typed is None else typed))
    if idle := unread(config, typed or ()):
        without = load_unresolved(preset, {key: value for key, value in (typed or {}).items() if key not in idle})
        refuse_changes(idle, config, without)
    config.check_selection()  # of what is asked for; a stored run that gained nothing by it can still be read
    return config


def load_unresolved(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """As `load_config`, but without what follows from files and from other parts, and whether the parts fit."""
    if not is_file_name(preset) and preset not in (names := preset_names()):
        raise unknown("preset", preset, names)
    raw = read_chain(preset_path(preset))
    raw["preset"] = preset
    where = f"{preset}: " if is_file_name(preset) else ""
    return _assemble(raw, overrides if isinstance(overrides, Mapping) else parse_overrides(overrides), where)


def build_config(
    raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, trains: bool = True
) -> RunConfig:
    """Turn plain nested dictionaries into a checked, resolved `RunConfig`; `trains` as `resolve` has it.

    Raises:
        UserError: as `load_config` does.
    """
    return resolve(_assemble(raw, overrides or {}), trains=trains)


def _assemble(raw: Mapping[str, Any], overrides: Mapping[str, Any], where: str = "") -> RunConfig:
    """Merge plain dictionaries and overrides into a typed configuration, not resolved yet.

    Args:
        where: what an error in `raw` begins with.
    """
    overrides = flat_sections(overrides)
    raw = {**raw, **{section: _section(raw, section, where) for section in SECTIONS}}
    try:
        for section, registry in SECTIONS.items():
            if (key := f"{section}.name") not in overrides:
                continue
            if not isinstance(name := overrides.pop(key), str) or not name:
                raise UserError(f"{key} needs a value, one of {', '.join(registry.names())}.")
            if name != raw[section].get("name"):
                raw[section] = {"name": name} | (_kept(raw[section], name) if section == "data" else {})
        names = tuple((section, str(raw[section].get("name", ""))) for section in SECTIONS)
        config = _schema(names, default_root())
        try:
            config = OmegaConf.merge(config, OmegaConf.create(raw))
        except OmegaConfBaseException as error:
            said = explain(error)
            raise UserError(f"{where}{said}{misplaced(str(error.full_key or ''), said)}") from error
        for key, value in overrides.items():
            update(config, key, value)
        result = OmegaConf.to_object(config)
        for section, registry in SECTIONS.items():
            part = getattr(result, section)
            if type(part) is not registry[part.name].config:
                raise UserError(
                    f"{section}.name cannot become {part.name} in this way; write {section}.name={part.name}."
                )
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    assert isinstance(result, RunConfig)
    return result


def _section(raw: Mapping[str, Any], section: str, where: str) -> dict[str, Any]:
    value = raw.get(section)
    if not isinstance(value, Mapping | None):
        names = ", ".join(SECTIONS[section].names())
        raise UserError(
            f"{where}{section}: {value!r} is no mapping of keys; write {section}: {{name: NAME}}; names: {names}."
        )
    return dict(value or {})


def _kept(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What stays of a preset's section `data` where the data set `name` takes the place of its own: labels or captions,
    and a share or a number of the images, as far as that one has them. All other keys (styles, folders, views) are of
    the preset's data set alone."""
    before, after = DATASETS[data.get("name") or EmojiConfig.name].config, DATASETS[name].config
    kept = {key: data[key] for key in ("subset", "best_share") if key in data and hasattr(after, key)}
    condition = data.get("condition", before.condition)
    return kept | ({"condition": condition} if condition in after.possible else {})


@lru_cache(maxsize=256)
def _schema(names: tuple[tuple[str, str], ...], root: str) -> Any:
    """The typed, empty configuration with these parts; made once, since making it takes most of the time of loading.

    Args:
        names: section -> name; "" = the default part.
        root: what `runtime.root` is by default, which the environment may change.
    """
    defaults, config = RunConfig(), OmegaConf.structured(RunConfig)
    for section, name in names:
        config[section] = OmegaConf.structured(SECTIONS[section][name or getattr(defaults, section).name].config)
    return config


# --- storing ---------------------------------------------------------------------------------------------------------


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as plain dictionaries, ready for YAML, JSON and hyper-parameters."""
    return dataclasses.asdict(config)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically; files and folders in full, for use from anywhere."""
    atomic_write_text(path, yaml.safe_dump(_placed(to_dict(config)), sort_keys=False, allow_unicode=True))


def _placed(values: dict[str, Any]) -> dict[str, Any]:
    """The values with full paths where they name something that is there: not a preset, or a model on a hub."""
    for key in ("preset", *PLACES):
        section, _, name = key.rpartition(".")
        part = values[section] if section else values
        if (place := part.get(name)) and place != "embedded" and os.path.exists(place):
            part[name] = os.path.abspath(place)
    return values


def read_config(
    path: Path, overrides: Mapping[str, Any] | None = None, *, trains: bool = False, needs_data: bool = True
) -> RunConfig:
    """Read back what `save_config` wrote.

    Args:
        overrides: dotted keys of what is to be otherwise.
        trains: it is to be trained, so what it starts from must be there, and its batches must suit its processes.
        needs_data: where not, the folder of the data may be gone. Data that were replaced are refused all the same:
            classes may have other numbers in them.

    Raises:
        UserError: as `load_config` does; keys that only other code has; a file that the training goes by was replaced.
    """
    stored = read_chain(path)
    other = f"{path} does not fit this code; use the code that made it, whose commit result.json beside it names: "
    config = _assemble(stored, overrides or {}, other)
    if not needs_data:
        config.data.forget_lost_folder()
    check_unchanged(stored, resolve(config, trains=trains), path)
    return config
