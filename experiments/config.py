"""The configuration of one run: load a preset, apply overrides, fill in what follows, check, store."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from datamodules.config import DATASETS, EmojiConfig
from experiments.benchmarks.config import BENCHMARK_CELLS, NoBenchmarkConfig
from experiments.errors import UserError, unknown
from experiments.evaluation_config import EvaluationConfig
from experiments.files import atomic_write_text, default_root
from experiments.presets import preset_names, preset_path, read_chain
from experiments.resolve import check_unchanged, resolve
from experiments.search.config import SearchConfig
from lightning_modules.backends import forced_backends
from lightning_modules.bounds import check_least, check_share
from lightning_modules.config import OBJECTIVES, MaskedConfig, OptimConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.registry import Registry
from lightning_modules.samplers.config import SAMPLERS, MaskGITConfig
from lightning_modules.text_encoders.config import TEXT_ENCODERS, NoTextEncoderConfig
from lightning_modules.tokenizers.config import TOKENIZERS, EmojiVQConfig

SECTIONS: dict[str, Registry] = {
    "data": DATASETS,
    "tokenizer": TOKENIZERS,
    "text_encoder": TEXT_ENCODERS,
    "generator": GENERATORS,
    "objective": OBJECTIVES,
    "sampler": SAMPLERS,
    "benchmark": BENCHMARK_CELLS,
}
"""Polymorphic sections: `name:` picks the dataclass through a registry."""


@dataclass
class TrainerConfig:
    """How long, on how much, and in which precision a run trains."""

    max_steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 128
    """Samples per optimiser step, over all devices and accumulated batches."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after the other; masks, noise and dropout are drawn for each."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16 is float32 on a device that does not compute in bfloat16 (CPUs without AVX-512, GPUs before Ampere)."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that samples are drawn from; 0 = none."""
    compile: bool = False
    init_from: str = ""
    """Start from the weights of a preset's run (trained first if need be), of a run by its id, or of a safetensors
    file; positions are resized where the resolution differs."""
    init_fingerprint: str = ""
    """Training hash of that run, or sha256 of that file, filled in when a run is resolved."""
    keep: Literal["last", "best"] = "last"
    """Weights that a run ends with: the last, or those of the best validation."""
    patience: int = 0
    """Early stopping: end after so many validations in a row without a new best; 0 = train all steps."""
    watch: str = "val/loss"
    """The validation's metric that `keep` and `patience` go by, one that the objective measures."""

    def __post_init__(self) -> None:
        check_least(self, "trainer", max_steps=1, batch_size=1, accumulate=1, patience=0)
        check_share(self, "trainer", "ema_decay")

    @property
    def selects(self) -> bool:
        """Whether validations decide about the weights or the end."""
        return self.keep == "best" or self.patience > 0


@dataclass
class RuntimeConfig:
    """Where and how a run is carried out: never part of its identity."""

    root: str = field(default_factory=default_root)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """What each of several processes holds: the whole model, or a share of weights, averages and optimiser states."""
    num_workers: int = 0
    """Threads that read batches ahead; processes where images are decoded during training."""
    threads: int = 0
    """CPU threads per process; 0 = all cores shared among the processes on this machine."""
    kernels: str = "auto"
    """Back end to force, as ABLATE_KERNELS takes it: `cpp`, or `selective_scan=torch,depthwise_conv1d=cpp`."""
    log_every: int = 20
    val_every: int = 200
    sample_every: int = 200
    checkpoint_every: int = 100
    most_equal_failures: int = 5
    """Give a training up that failed so often in the same way without getting further; 0 = never."""
    progress: bool = True

    def __post_init__(self) -> None:
        check_least(self, "runtime", devices=1, num_nodes=1, log_every=1, val_every=1, checkpoint_every=1)
        check_least(self, "runtime", num_workers=0, threads=0, sample_every=0, most_equal_failures=0)
        forced_backends(self.kernels, "runtime.kernels")


@dataclass
class RunConfig:
    """One run: a training and one evaluation of it; where `benchmark` is not none, a measurement without training."""

    preset: str = ""
    imported: str = ""
    """sha256 of the published file that the weights come from; empty: they are trained."""
    seed: int = 0
    data: Any = field(default_factory=EmojiConfig)
    tokenizer: Any = field(default_factory=EmojiVQConfig)
    text_encoder: Any = field(default_factory=NoTextEncoderConfig)
    generator: Any = field(default_factory=MaskMambaConfig)
    objective: Any = field(default_factory=MaskedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampler: Any = field(default_factory=MaskGITConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    benchmark: Any = field(default_factory=NoBenchmarkConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    """Values that are tuned before the run that counts; by itself never part of a run's identity."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be at least 0 and less than 2**63.")
        if not math.isfinite(self.optim.lr):
            raise ValueError(f"optim.lr={self.optim.lr} must be a finite number.")

    @property
    def root(self) -> Path:
        """The folder of all outputs."""
        return Path(self.runtime.root)


# --- loading ----------------------------------------------------------------------------------------------------------


def load_config(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """Load a preset (a name, or a path to a YAML file), apply overrides, resolve and check.

    Args:
        preset: `maskmamba/demo`, or `path/to/mine.yaml`.
        overrides: "key=value" strings as typed by a person, or a mapping of dotted keys to values.

    Raises:
        UserError: unknown preset or key, a value of the wrong type or out of range.
    """
    return resolve(load_unresolved(preset, overrides))


def load_unresolved(preset: str, overrides: Mapping[str, Any] | Iterable[str] = ()) -> RunConfig:
    """As `load_config`, but without what follows from files and from other parts, and whether the parts fit."""
    if not preset.endswith((".yaml", ".yml")) and preset not in (names := preset_names()):
        raise unknown("preset", preset, names)
    raw = read_chain(preset_path(preset))
    raw["preset"] = preset
    return _assemble(raw, overrides if isinstance(overrides, Mapping) else parse_overrides(overrides))


def build_config(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Turn plain nested dictionaries into a checked, resolved `RunConfig`. Raises UserError as `load_config` does."""
    return resolve(_assemble(raw, overrides or {}))


def _assemble(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> RunConfig:
    overrides = flat_sections(overrides)
    raw = {**raw, **{section: _section(raw, section) for section in SECTIONS}}
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
        config = OmegaConf.merge(config, OmegaConf.create(raw))
        for key, value in overrides.items():
            _update(config, key, value)
        result = OmegaConf.to_object(config)
        for section, registry in SECTIONS.items():
            part = getattr(result, section)
            if type(part) is not registry[part.name].config:
                raise UserError(
                    f"{section}.name cannot become {part.name} in this way; write {section}.name={part.name}."
                )
    except OmegaConfBaseException as error:
        raise UserError(_explain(error)) from error
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    assert isinstance(result, RunConfig)
    return result


def flat_sections(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"sampler": {"name": "halton"}} -> {"sampler.name": "halton"}: by its dotted key a name picks another dataclass.

    Raises:
        UserError: a section is given as an empty mapping.
    """
    result: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping) and key in RunConfig.__dataclass_fields__:
            if not value:
                raise UserError(f"{key} needs a value.")
            result |= {f"{key}.{inner}": part for inner, part in value.items()}
        else:
            result[key] = value
    return result


def _section(raw: Mapping[str, Any], section: str) -> dict[str, Any]:
    value = raw.get(section)
    if not isinstance(value, Mapping | None):
        names = ", ".join(SECTIONS[section].names())
        raise UserError(f"{section}: {value!r} is no mapping of keys; write {section}: {{name: NAME}}; names: {names}.")
    return dict(value or {})


def _kept(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a preset asks of its data whichever they are, and the data set `name` can give: labels or captions, and a
    share or a number of the images. All else (styles, folders, views) is of the one data set alone."""
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


def parse_overrides(words: Iterable[str], own: Collection[str] = ()) -> dict[str, Any]:
    """Split "key=value" words. Values stay text (the field's type decides), except lists, mappings and null.

    Args:
        own: keys of the caller, which are none of a configuration's.

    Raises:
        UserError: no such word, a key that is there twice, or one that a person cannot set.
    """
    result: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not an override; write key=value, for example trainer.max_steps=500.")
        try:
            read = yaml.safe_load(value) if value.startswith(("[", "{")) or value == "null" else value
        except yaml.YAMLError as error:
            raise UserError(f"{key}: '{value}' is not valid YAML.") from error
        for name, part in {key: read}.items() if key in own else flat_sections({key: read}).items():
            if name in result:
                raise UserError(f"{name} is given twice, {result[name]} and {part}; leave one of them out.")
            if name not in own and is_filled_in(name):
                raise UserError(f"{name} is filled in when a run is made, and cannot be set; leave {word} out.")
            result[name] = part
    return result


def is_filled_in(key: str) -> bool:
    """Whether it is a key whose value follows from others and from files, so that none can be set."""
    return key in ("preset", "data.classes", "data.image_size") or key.endswith("fingerprint")


def _update(config: Any, key: str, value: Any) -> None:
    try:
        current = OmegaConf.select(config, key, throw_on_missing=False)
        if isinstance(value, str) and value == "" and isinstance(current, list | dict):
            raise UserError(f"{key} needs a value.")
        if OmegaConf.is_dict(current) and not isinstance(value, Mapping):
            raise UserError(f"{key} is a section with the keys {', '.join(sorted(current))}; set one of them.")
        try:
            OmegaConf.update(config, key, value)
        except ValidationError:
            if not (isinstance(value, str) and value.isdecimal()):
                raise
            OmegaConf.update(config, key, int(value))  # a choice among numbers, for which text is not converted
    except OmegaConfBaseException as error:
        section, said = section_of(key), _explain(error)
        if section not in config:
            raise UserError(
                f"{key}={value}: a run has no key '{key}'.{nearest_key(key)} A key is written with its section, one of "
                f"{', '.join(name for name in config if OmegaConf.is_dict(config[name]))}."
            ) from error
        other = section in SECTIONS and "not in" in said and "Did you mean" not in said
        name = f" {section}.name is {config[section].name}; another takes other keys" if other else ""
        name += " (`ablate keys PRESET` lists them)." if other else ""
        raise UserError(f"{key}={value}: {said}{name}") from error


def section_of(key: str) -> str:
    """The first part of a key."""
    return key.partition(".")[0].partition("[")[0]


def nearest_key(given: str, others: Iterable[str] = ()) -> str:
    """ " Did you mean 'trainer.max_steps'?" for a key that is mistyped or lacks its section; "" if none is near.

    Args:
        others: words that would do as well, and come first.
    """
    forms: dict[str, str] = {}
    for name in (*others, *_known_keys()):
        forms.setdefault(name, name)
        forms.setdefault(name.rpartition(".")[2], name)
    match = get_close_matches(given, forms, n=1)
    return f" Did you mean '{forms[match[0]]}'?" if match else ""


@lru_cache(maxsize=1)
def _known_keys() -> tuple[str, ...]:
    """Every key that the configuration of some run has; those of the default parts first."""
    found = list(_leaves(RunConfig()))
    for section, registry in SECTIONS.items():
        for name in registry.names():
            found += _leaves(registry[name].config(), f"{section}.")
    return tuple(dict.fromkeys(found))


def _leaves(part: Any, prefix: str = "") -> Iterator[str]:
    for item in dataclasses.fields(part):
        value, key = getattr(part, item.name), f"{prefix}{item.name}"
        yield from _leaves(value, f"{key}.") if dataclasses.is_dataclass(value) else (key,)


def _explain(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    return lines[0].rstrip(".") + (f" (at {where})." if where and where not in lines[0] else ".")


# --- storing ---------------------------------------------------------------------------------------------------------


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as plain dictionaries, ready for YAML, JSON and hyper-parameters."""
    return dataclasses.asdict(config)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    atomic_write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def read_config(path: Path) -> RunConfig:
    """Read back what `save_config` wrote.

    Raises:
        UserError: as `load_config` does; a file that the training goes by was replaced since.
    """
    stored = read_chain(path)
    config = build_config(stored)
    check_unchanged(stored, config, path)
    return config
