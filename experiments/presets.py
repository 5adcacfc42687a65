"""Preset files: where they are, and how one is read over those that its `base:` names. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from experiments.errors import UserError, unknown
from experiments.strict_yaml import load_yaml

PRESETS = Path(__file__).parent / "configs"


def preset_names() -> list[str]:
    """All presets, e.g. "maskmamba/demo"."""
    return sorted(str(path.relative_to(PRESETS).with_suffix("")) for path in PRESETS.rglob("*.yaml"))


def is_file_name(name: str) -> bool:
    """Whether a preset or a sweep is named by the path of a file of one's own."""
    return name.endswith((".yaml", ".yml"))


def preset_path(name: str) -> Path:
    """The file of a preset: of a name such as "maskmamba/demo", or the path itself where `name` ends in .yaml."""
    return Path(name) if is_file_name(name) else PRESETS / f"{name}.yaml"


def read_chain(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file and, beneath it, those that its `base:` names: a preset, or a file relative to itself."""
    if path.resolve() in seen:
        raise UserError(f"{path} includes itself through 'base:'.")
    try:
        raw = load_yaml(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"Cannot read preset {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of configuration keys.")
    base = raw.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"{path}: base={base!r} is no preset; write base: and a preset's name or the path of a file.")
    if not base:
        return raw
    if not is_file_name(base) and base not in (names := preset_names()):
        raise UserError(f"{path}: {unknown('preset in base', base, names)}")
    below = path.parent / base if is_file_name(base) else preset_path(base)
    return _deep_merge(read_chain(below, (*seen, path.resolve())), raw)


def _deep_merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """`high` over `low`; a section whose `name` changes starts afresh."""
    result = dict(low)
    for key, value in high.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name"):
            result[key] = _deep_merge(old, value)
        else:
            result[key] = value
    return result
