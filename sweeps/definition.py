"""Read and check sweep definitions. No run is built here."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.errors import UserError, unknown
from experiments.files import default_root
from experiments.overrides import explain
from experiments.presets import is_file_name
from experiments.strict_yaml import load_yaml
from lightning_modules.metrics.config import METRICS
from lightning_modules.names import did_you_mean
from sweeps.axes import Axis, Choice, Sweep, labels_of, matches
from sweeps.config import SweepConfig, ValueConfig
from sweeps.own_presets import place_preset

DEFINITIONS = Path(__file__).parent / "definitions"
COLUMNS = ("baseline", "flags", "seed", "seeds", "run_id", "eval_id", "reason")
"""What a report's data holds of every row beside its labels and what was measured, and the word for seeds."""


def sweep_names() -> list[str]:
    """All named sweeps."""
    return sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))


def load_sweep(name: str, root: Path | str | None = None) -> Sweep:
    """Read a named sweep, or one's own file if `name` ends in .yaml.

    Args:
        root: the folder of outputs, to say of an unknown name what is known of it there; by default ABLATE_ROOT, else
            ./outputs.

    Raises:
        UserError: there is none of that name, or its definition is wrong.
    """
    if is_file_name(name):
        return read_sweep(Path(name).resolve())
    if name not in (names := sweep_names()):
        raise _unknown_sweep(name, names, Path(root or default_root()))
    return read_sweep(DEFINITIONS / f"{name}.yaml")


def _unknown_sweep(name: str, names: list[str], root: Path) -> UserError:
    """The error for a name that is no shipped sweep's; it may well be that of a person's own file."""
    plans = [path for path in (root / "sweeps").glob("*/plan.json") if path.parent.name.startswith(f"{name}-")]
    begun = sorted(path.parent for path in plans if _begun_name(path) == name)
    if begun:
        return UserError(
            f"Sweep '{name}' was begun in {begun[0]} from a file of its own: give the path of that file instead of its "
            f"name, such as path/to/{name}.yaml."
        )
    if os.path.isfile(f"{name}.yaml"):
        return UserError(f"Unknown sweep '{name}'. For the file here, write {name}.yaml.")
    return UserError(
        f"Unknown sweep '{name}'.{did_you_mean(name, names)} Valid: the path of a file of your own, such as "
        f"path/to/{name}.yaml, or one of {', '.join(names)}."
    )


def _begun_name(path: Path) -> str:
    """The name of the sweep that a plan.json is of; "" if it does not say."""
    with suppress(OSError, ValueError):
        record = json.loads(path.read_text(encoding="utf-8"))
        return str(record.get("sweep", "")) if isinstance(record, dict) else ""
    return ""


@lru_cache
def read_sweep(path: Path) -> Sweep:
    """Read and check one definition file. Raises UserError, naming the file, where it is wrong."""
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise UserError("it must hold a mapping with the keys name, title, reproduces, scales and axes.")
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweepConfig), raw))
        assert isinstance(config, SweepConfig)
        if config.name != path.stem:
            raise UserError(f"its name is '{config.name}'; name and file must agree.")
        return _check(config, path)
    except OSError as error:
        raise UserError(f"Cannot read sweep {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"Sweep {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except (OmegaConfBaseException, ValueError, UserError) as error:
        raise UserError(f"Sweep {path}: {explain(error)}") from error


def _check(config: SweepConfig, path: Path) -> Sweep:
    if not config.scales:
        raise UserError("it needs at least one scale.")
    axes: list[Axis] = []
    for item in config.axes:
        if item.name in [axis.name for axis in axes]:
            raise UserError(f"axis '{item.name}' is there twice.")
        when = {name: _labels(axes, name, wanted) for name, wanted in item.when.items()}
        axes.append(Axis(item.name, _choices(axes, item.name, item.key, item.values), when))
        if item.name in COLUMNS or re.sub("_(std|n|note|low|high)$", "", item.name) in METRICS:
            raise UserError(
                f"axis '{item.name}' needs another name, such as '{item.name}_axis': that one means something else "
                f"in a report's data, as do all metrics and {', '.join(COLUMNS)}."
            )
    exclude = tuple(({n: _labels(axes, n, w) for n, w in e.when.items()}, e.reason) for e in config.exclude)
    for group in config.zip:
        _check_zip(axes, group)
    if twice := [name for name, count in Counter(n for group in config.zip for n in group).items() if count > 1]:
        raise UserError(f"zip names the axis '{twice[0]}' twice; an axis advances with one group of others.")
    for scale in config.scales.values():
        scale.preset = place_preset(scale.preset, path.parent)
        scale.only = {name: _labels(axes, name, wanted) for name, wanted in scale.only.items()}
        for part in scale.cells:
            part.preset = place_preset(part.preset, path.parent)
            part.when = {name: _labels(axes, name, wanted) for name, wanted in part.when.items()}
        if not scale.seeds or len(set(scale.seeds)) < len(scale.seeds):
            raise UserError(f"seeds={scale.seeds} must be one or more different numbers.")
    _check_in_turns(config, axes)
    _check_equal_compute(config, axes)
    _check_report(config.report, axes)
    sweep = Sweep(config, path, tuple(axes), exclude)
    _check_conditions(sweep)
    return sweep


def _check_conditions(sweep: Sweep) -> None:
    """What speaks of some of the cells must speak of one at least, or else something in it is mistyped."""
    config = sweep.config
    conditions = [("exclude", when) for when, _ in sweep.exclude]
    conditions += [(f"scales.{name}.cells", part.when) for name, s in config.scales.items() for part in s.cells]
    conditions += [("equal_compute", config.equal_compute.when)] if config.equal_compute else []
    if not conditions:
        return
    there = list(map(labels_of, sweep.combinations({})))
    unfit = [labels for labels, _ in sweep.unfit({})]  # which no value fits: an exclusion may say why
    for place, when in conditions:
        if not any(matches(labels, when) for labels in (*there, *(unfit if place == "exclude" else ()))):
            said = ", ".join(f"{axis}: {' or '.join(labels)}" for axis, labels in when.items())
            raise UserError(f"{place} speaks of cells with {said}, and there are none: these never come together.")


def _choices(before: list[Axis], axis: str, key: str, values: list[Any]) -> tuple[Choice, ...]:
    choices: list[Choice] = []
    for value in values:
        if not isinstance(value, dict):
            value = {"value": value}
        item = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ValueConfig), value))
        assert isinstance(item, ValueConfig)
        if key and "value" not in value and not item.set:
            raise UserError(f"axis '{axis}' has a value without 'value' and 'set'.")
        if not key and "value" in value and not item.set:
            raise UserError(f"axis '{axis}' has no key, so its value {item.value!r} needs a 'set' of its own.")
        overrides = ({key: item.value} if key and "value" in value else {}) | item.set
        when = {name: _labels(before, name, wanted) for name, wanted in item.when.items()}
        choices.append(Choice(item.label or label_of(item.value), overrides, when))
    if not choices or any(_both(a, b) for a, b in combinations(choices, 2)):
        labels = [choice.label for choice in choices]
        raise UserError(f"axis '{axis}' needs one or more values with different labels; it has {labels}.")
    if any("seed" in choice.overrides for choice in choices):
        raise UserError(f"axis '{axis}' varies the seed; list seeds under the scales instead.")
    return tuple(choices)


def _both(a: Choice, b: Choice) -> bool:
    """Whether two values of an axis share a label and can be met in one place."""
    return a.label == b.label and all(set(a.when[name]) & set(b.when[name]) for name in a.when.keys() & b.when.keys())


def label_of(value: Any) -> str:
    """A value as its label: as YAML would write it."""
    return value if isinstance(value, str) else json.dumps(value)


def _labels(axes: list[Axis], name: str, wanted: Any) -> tuple[str, ...]:
    """The labels that a condition names, checked against the axes before it."""
    axis = next((axis for axis in axes if axis.name == name), None)
    if axis is None:
        raise unknown("axis", name, [axis.name for axis in axes])
    labels = tuple(label_of(item) for item in (wanted if isinstance(wanted, list | tuple) else [wanted]))
    for label in labels:
        if label not in axis.labels:
            raise unknown(f"value of axis '{name}'", label, axis.labels)
    return labels


def _check_zip(axes: list[Axis], group: list[str]) -> None:
    found = {axis.name: axis for axis in axes}
    for name in group:
        if name not in found:
            raise unknown("axis", name, found)
    counts = {name: len(found[name].choices) for name in group}
    if len(set(counts.values())) > 1:
        raise UserError(f"zip needs axes of equal length, but they have {counts}.")
    if len({json.dumps(dict(found[name].when)) for name in group}) > 1:
        raise UserError(f"zip needs axes with the same 'when': {', '.join(group)}.")
    order = list(found)
    first = min(group, key=order.index)
    for name in group:
        for other in {other for choice in found[name].choices for other in choice.when}:
            if order.index(other) >= order.index(first):
                raise UserError(
                    f"zip puts axis '{name}' where '{first}' stands, and its values depend on '{other}' (when), which "
                    f"is not decided there; write '{other}' before '{first}', outside the group."
                )


def _check_in_turns(config: SweepConfig, axes: list[Axis]) -> None:
    for name in config.in_turns:
        if name not in [axis.name for axis in axes]:
            raise unknown("axis in in_turns", name, [axis.name for axis in axes])
    if config.in_turns and config.measure != "benchmark":
        raise UserError("in_turns is for timings; it goes with measure: benchmark.")
    if config.search and config.measure == "benchmark":
        raise UserError("search tunes what is evaluated; it does not go with measure: benchmark.")


def _check_equal_compute(config: SweepConfig, axes: list[Axis]) -> None:
    if (equal := config.equal_compute) is None:
        return
    equal.when = {name: _labels(axes, name, wanted) for name, wanted in equal.when.items()}
    equal.to = {name: _labels(axes, name, wanted)[0] for name, wanted in equal.to.items()}
    if not any(name in equal.to and equal.to[name] not in labels for name, labels in equal.when.items()):
        raise UserError("equal_compute.to must name another cell, one that equal_compute.when does not hold.")


def _check_report(report: Mapping[str, Any], axes: list[Axis]) -> None:
    """The axes and labels it names must exist, lest a typo come out after days; the rest is the report's business."""
    for key in ("group", "rows", "spread"):
        value = report.get(key) or []
        for name in value if isinstance(value, list) else [value]:
            if name not in [axis.name for axis in axes]:
                raise unknown(f"axis in report.{key}", str(name), [axis.name for axis in axes])
    baseline = report.get("baseline") or {}
    if not isinstance(baseline, Mapping):
        raise UserError(f"report.baseline={baseline} must say which label of which axes, e.g. {{mixer: attention}}.")
    for name, wanted in baseline.items():
        _labels(axes, name, wanted)
