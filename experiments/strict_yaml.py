"""YAML as a person writes it: no key twice, times as text, nothing within itself; and as the suite writes it, read as
fast as can be."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from experiments.errors import UserError


def load_yaml(text: str) -> Any:
    """Read what a person wrote. Raises YAMLError, or UserError for a key that stands twice."""
    try:
        read = yaml.load(text, _Strict)
        json.dumps(read, default=str, skipkeys=True)  # which refuses what contains itself (&a [*a])
    except (ValueError, LookupError, AttributeError, RecursionError) as error:  # of a 13th month, of !!int abc, ...
        raise yaml.YAMLError(str(error)) from error
    return read


def load_stored(text: str) -> Any:
    """Read a file that the suite wrote. Raises YAMLError."""
    return yaml.load(text, _Loader)


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CLOCK = "tag:yaml.org,2002:str", re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?$")
"""Times such as 4:00:00 are text; YAML 1.1 has 14400 for them."""


class _Strict(_Loader):
    """YAML in which a key that stands twice in one mapping is refused: the first would be lost without a word."""

    yaml_implicit_resolvers = {first: [_CLOCK, *known] for first, known in _Loader.yaml_implicit_resolvers.items()}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str) or key.value == "<<":
                continue
            if key.value in seen:
                raise UserError(f"the key '{key.value}' is there twice, again in line {key.start_mark.line + 1}.")
            seen.add(key.value)
        return super().construct_mapping(node, deep)
