"""Options of a benchmark, typed by its function's signature, as words of a command line. Torch-free.

A number or name is written as it is, several with commas between (batches=1,16), the sizes of a shape with an x
(shapes=8x768x257,2x1024x1025). Keys with a dot override the presets of benchmarks that take `overrides`.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from experiments.errors import UserError
from experiments.overrides import parse_overrides
from lightning_modules.names import did_you_mean

OVERRIDES = "overrides"
BACKENDS = "backends"
"""Option of those that compare the suite's own back ends."""


def parse_options(function: Callable[..., Any], words: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE words -> keyword arguments of a benchmark's function.

    Raises:
        UserError: no such option, or a value that it does not take.
    """
    kinds, defaults = get_type_hints(function), inspect.signature(function).parameters
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"'{word}' is not an option; write KEY=VALUE, for example seconds=20.")
        if "." in key and OVERRIDES in defaults:
            options.setdefault(OVERRIDES, {}).update(parse_overrides([word]))
            continue
        if key == OVERRIDES:  # an argument, but no word
            raise _no_option(function, key)
        check_option(function, key)
        default = defaults[key].default
        try:
            options[key] = _value(kinds[key], text, least=0 if _has_zero(default) else 1)
        except ValueError as error:
            raise UserError(f"{word}: {error}; the default is {key}={written(default)}.") from error
    return options


def check_option(function: Callable[..., Any], key: str) -> None:
    """Raise UserError unless the function takes this option."""
    if key not in inspect.signature(function).parameters:
        raise _no_option(function, key)


def _no_option(function: Callable[..., Any], key: str) -> UserError:
    valid = list(inspect.signature(function).parameters)
    named = [name for name in valid if name != OVERRIDES]
    more = ", and any key of its presets, such as generator.depth" if OVERRIDES in valid else ""
    return UserError(
        f"This benchmark has no option '{key}'.{did_you_mean(key, named)} It has {', '.join(named)}{more}."
    )


def defaults_of(function: Callable[..., Any]) -> list[str]:
    """Every option with its default, as it would be typed."""
    parameters = inspect.signature(function).parameters
    return [f"{key}={written(p.default)}" for key, p in parameters.items() if key != OVERRIDES]


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as the words that give them."""
    words = [f"{key}={written(value)}" for key, value in options.items() if key != OVERRIDES]
    return words + [f"{key}={_typed(value)}" for key, value in options.get(OVERRIDES, {}).items()]


def _typed(value: Any) -> str:
    """A value of a preset's key as `parse_overrides` reads it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ": "))


def written(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return ",".join("x".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)


def _value(kind: Any, text: str, least: int) -> Any:
    """Raises ValueError where the text is no such value."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if text not in inner:
            raise ValueError(f"'{text}' is none of {', '.join(inner)}")
        return text
    if origin is tuple:
        sizes = text.split("x")
        if len(sizes) != len(inner):
            raise ValueError(f"'{text}' is not {len(inner)} numbers with an x between them")
        return tuple(_value(part, size, least) for part, size in zip(inner, sizes, strict=True))
    if origin is not None and issubclass(origin, Sequence):
        return [_value(inner[0], part.strip(), least) for part in text.split(",")]
    if kind is int:
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"'{text}' is not a whole number of at least {least}")
        return int(text)
    if kind is float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(f"'{text}' is not a number of at least 0")
        return number
    return text


def _has_zero(default: Any) -> bool:
    """Whether a default, or a part of it, is the number 0, which is then valid."""
    if isinstance(default, str | float | NoneType):
        return False
    return any(map(_has_zero, default)) if isinstance(default, Iterable) else default == 0
