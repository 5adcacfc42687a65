"""What a person asks of a sweep on the command line: overrides, a part of it, seeds, resources, the root."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import load_unresolved
from experiments.environment import environment_kernels
from experiments.errors import UserError, unknown
from experiments.files import default_root
from experiments.identity import semantic
from experiments.overrides import flat_sections, nearest_key, parse_overrides, section_of
from experiments.run_config import RunConfig
from experiments.strict_yaml import load_yaml
from lightning_modules.backends import AUTO, ENVIRONMENT_VARIABLE
from sweeps.axes import Sweep, labels_of, overrides_of
from sweeps.config import ResourcesConfig
from sweeps.definition import label_of

KERNELS, VAL_EVERY, PATIENCE = "runtime.kernels", "runtime.val_every", "trainer.patience"


@dataclass(frozen=True)
class Request:
    """The words of a command line, sorted."""

    root: Path
    config: Mapping[str, Any]
    """Overrides of every cell's configuration."""
    only: Mapping[str, tuple[str, ...]]
    """Axis -> the labels to take."""
    seeds: tuple[int, ...]
    """() = the sweep's own."""
    resources: ResourcesConfig
    words: tuple[str, ...]
    """As typed, to be repeated in messages and job scripts."""
    counted: tuple[str, ...] = ()
    """The keys of `runtime` that change results of this sweep."""

    @property
    def digest(self) -> str:
        """Six digits for the configuration overrides, "" if there are none that could change a result."""
        config = {key: value for key, value in self.config.items() if self.changes_results(key)}
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:6] if config else ""

    def changes_results(self, key: str) -> bool:
        """Whether what is typed for this key can change a result."""
        return not key.startswith(("runtime.", "resources.")) or key in self.counted

    def key(self) -> dict[str, Any]:
        """What the cells depend on, as plain JSON."""
        return {
            "root": str(self.root),
            "config": dict(self.config),
            "only": {axis: list(labels) for axis, labels in self.only.items()},
            "seeds": list(self.seeds),
        }


def parse_request(sweep: Sweep, scale: str, words: Iterable[str], root: Path | str | None) -> Request:
    """Sort the words into a `Request`. Raises UserError for a word that is none of these."""
    words = tuple(words)
    config: dict[str, Any] = {}
    only: dict[str, tuple[str, ...]] = {}
    seeds: tuple[int, ...] = ()
    given: dict[str, Any] = {}
    axes = [axis.name for axis in sweep.axes]
    for key, value in parse_overrides(words, own=axes).items():
        if key in axes:
            only[key] = _labels(sweep, key, value)
        elif key == "seeds":
            seeds = _seeds(value)
        elif key == "seed":
            raise UserError("A sweep repeats its cells over seeds; write seeds=0,1,2.")
        elif key.startswith("resources."):
            given[key.removeprefix("resources.")] = value
        elif section_of(key) not in (item.name for item in fields(RunConfig)):
            own = [*axes, "seeds", *(f"resources.{item.name}" for item in fields(ResourcesConfig))]
            raise UserError(
                f"{key}={value}: '{key}' is neither an axis of sweep {sweep.name} nor a key of its runs."
                f"{nearest_key(key, own)} Axes: {', '.join(axes) or 'none'}; a key is written with its "
                "section, such as trainer.max_steps=500."
            )
        else:
            config[key] = value
    folder = root or config.get("runtime.root") or default_root()
    resources = _resources(asdict(sweep.config.scales[scale].resources), _site(Path(folder)), given)
    timed = sweep.config.measure == "benchmark"
    if timed and config.get(KERNELS, AUTO) == AUTO and (forced := _environment_kernels(sweep, scale)) != AUTO:
        config[KERNELS] = forced  # as if typed: a job on another machine does not see this environment
        words = (*(word for word in words if not word.startswith(f"{KERNELS}=")), f"{KERNELS}={forced}")
    counted = (KERNELS,) if timed else (VAL_EVERY,) if VAL_EVERY in config and _may_stop(sweep, scale, config) else ()
    return Request(Path(folder), config, only, seeds, resources, words, counted)


def _may_stop(sweep: Sweep, scale: str, config: Mapping[str, Any]) -> bool:
    """Whether how often a training of the sweep is validated is part of its identity, since that may end it.

    Args:
        config: as typed.
    """
    settings = {}
    for choices in sweep.combinations({}):  # whatever part of the sweep is asked for: it has one folder
        preset, base = sweep.base(scale, labels_of(choices))
        asked = {**base, **config, **overrides_of(choices)}
        patience = {key: value for key, value in flat_sections(asked).items() if key == PATIENCE}
        settings[preset, str(patience)] = preset, patience
    return any(VAL_EVERY in semantic(load_unresolved(*setting), ("trainer",)) for setting in settings.values())


def _environment_kernels(sweep: Sweep, scale: str) -> str:
    """The back ends that the environment forces; "auto" where it forces none, or the sweep sets its own.

    Raises:
        UserError: some cells of the sweep set theirs.
    """
    forced, config = environment_kernels(), sweep.config.scales[scale]
    if forced == AUTO or config.overrides.get(KERNELS, AUTO) != AUTO:
        return AUTO
    varied = {key for axis in sweep.axes for choice in axis.choices for key in choice.overrides}
    if KERNELS in varied.union(*(part.set for part in config.cells)):
        raise UserError(
            f"{ENVIRONMENT_VARIABLE}={forced} is set, and cells of sweep {sweep.name} set {KERNELS} themselves: "
            f"unset {ENVIRONMENT_VARIABLE}."
        )
    return forced


def _labels(sweep: Sweep, axis: str, value: Any) -> tuple[str, ...]:
    known = sweep.axis(axis).labels
    if (whole := label_of(value)) in known:  # which may hold a comma
        return (whole,)
    labels = tuple(map(label_of, value)) if isinstance(value, list) else tuple(whole.split(","))
    for label in labels:
        if label not in known:
            raise unknown(f"value of axis '{axis}'", label, known)
    return labels


def _seeds(value: Any) -> tuple[int, ...]:
    try:
        seeds = tuple(int(item) for item in (value if isinstance(value, list) else value.split(",")))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"seeds={value} must be whole numbers with commas between them, e.g. seeds=0,1,2.") from error
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise UserError(f"seeds={value} names {twice[0]} more than once; each repetition has a seed of its own.")
    return seeds


def _site(root: Path) -> dict[str, Any]:
    """Resources that hold for all sweeps of a root: its slurm.yaml."""
    path = root / "slurm.yaml"
    try:
        site = load_yaml(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(site, dict):
        raise UserError(f"{path} must hold a mapping of resources, such as partition: gpu.")
    return site


def _resources(*layers: Mapping[str, Any]) -> ResourcesConfig:
    """Later layers count more."""
    schema = OmegaConf.structured(ResourcesConfig)
    for layer in layers:
        for key, value in layer.items():
            if (head := str(key).partition(".")[0]) not in schema:
                raise unknown("key of resources", head, map(str, schema))
            try:
                OmegaConf.update(schema, key, value)
            except OmegaConfBaseException as error:
                raise UserError(f"resources.{key}={value}: {str(error).splitlines()[0].rstrip('.')}.") from error
    try:
        result = OmegaConf.to_object(schema)
        assert isinstance(result, ResourcesConfig)
        result.of_evaluation(), result.of_report()  # only to check them
    except (OmegaConfBaseException, ValueError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{'' if said.startswith('resources.') else 'resources: '}{said}.") from error
    return result
