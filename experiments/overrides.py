"""Words such as trainer.max_steps=500: read, checked, put into a configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from experiments.errors import UserError
from experiments.run_config import SECTIONS, RunConfig
from experiments.strict_yaml import load_yaml


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
        if "[" in key:
            dotted = ".".join(filter(None, re.split(r"[.\[\]]+", key)))
            raise UserError(f"{word}: brackets are for values, as in optim.betas=[0.9,0.95]; write {dotted}={value}.")
        try:
            read = load_yaml(value) if value.startswith(("[", "{")) or value == "null" else value
        except yaml.YAMLError as error:
            raise UserError(f"{key}: '{value}' is not valid YAML.") from error
        except UserError as error:
            raise UserError(f"{word}: {error}") from error
        for name, part in {key: read}.items() if key in own else flat_sections({key: read}).items():
            if name in result:
                raise UserError(f"{name} is given twice, {result[name]} and {part}; leave one of them out.")
            if name not in own and is_filled_in(name):
                raise UserError(f"{name} is filled in when a run is made, and cannot be set; leave {word} out.")
            result[name] = part
    return result


def is_filled_in(key: str) -> bool:
    """Whether it is a key whose value follows from others and from files, so that none can be set."""
    found = ("preset", "data.classes", "data.class_folders", "data.image_size")
    return key in found or key.endswith("fingerprint")


def update(config: Any, key: str, value: Any) -> None:
    """Put a value into a typed configuration of OmegaConf. Raises UserError for an unknown key or a wrong value."""
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
        section, said = section_of(key), explain(error)
        if section not in config:
            raise UserError(
                f"{key}={value}: a run has no key '{key}'.{nearest_key(key)} A key is written with its section, one of "
                f"{', '.join(name for name in config if OmegaConf.is_dict(config[name]))}."
            ) from error
        other = section in SECTIONS and "not in" in said and "Did you mean" not in said
        name = f" {section}.name is {config[section].name}; another takes other keys" if other else ""
        name += " (`ablate keys PRESET` lists them)." if other else ""
        raise UserError(f"{key}={value}: {said}{misplaced(key, said) or name}") from error


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


def misplaced(key: str, said: str) -> str:
    """ " It is 'runtime.val_every'." for a key that no run has, but whose name is one of other sections; else "".

    Args:
        said: OmegaConf's words about the key; where they suggest another one already, nothing is added.
    """
    if "Did you mean" in said:
        return ""
    name, known = key.rpartition(".")[2], _known_keys()
    others = [other for other in known if other.rpartition(".")[2] == name and section_of(other) != section_of(key)]
    return f" It is {' or '.join(map(repr, others))}." if key not in known and 0 < len(others) < 4 else ""


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


def explain(error: Exception) -> str:
    """OmegaConf's error, which has several lines, in one sentence; any other's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    if where and "is not a ListConfig" in lines[0]:  # the words of OmegaConf's own classes say nothing to a person
        return f"{where} must be a list, such as [0, 1]."
    said = lines[0].rstrip(".") + (f" (at {where})" if where and where not in lines[0] else "")
    return said if said.endswith("?") else f"{said}."


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
