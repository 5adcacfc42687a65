"""The keys of a configuration: value, type and meaning of each, which is the text below the key in its dataclass."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from experiments.errors import unknown
from experiments.overrides import is_filled_in
from experiments.run_config import SECTIONS, RunConfig


@dataclass(frozen=True)
class Key:
    """One key of a configuration.

    Attributes:
        name: as typed, "generator.width".
        value: what it is.
        type: what it may be, in words: "int", "class | caption".
        doc: what it means.
    """

    name: str
    value: Any
    type: str
    doc: str

    @property
    def typed(self) -> str:
        """The value as it is typed behind KEY=."""
        if isinstance(self.value, str):
            return self.value
        return yaml.safe_dump(self.value, default_flow_style=True, width=10**6).splitlines()[0]


def keys_of(config: RunConfig) -> list[Key]:
    """All keys that a person may set, in the order of the sections."""
    return [key for key in _keys(config, "") if not (key.name == "imported" or is_filled_in(key.name))]


def select(keys: Sequence[Key], parts: Sequence[str], preset: str) -> list[Key]:
    """The keys of these sections, or with these names; all where none is named. Raises UserError for an unknown one."""
    known = {".".join(words[:n]) for key in keys for words in [key.name.split(".")] for n in range(1, len(words) + 1)}
    for part in parts:
        if part not in known:
            raise unknown(f"section or key of {preset}", part, (name for name in known if name.count(".") == 0))
    return [key for key in keys if not parts or any(f"{key.name}.".startswith(f"{part}.") for part in parts)]


def _keys(node: Any, prefix: str) -> Iterator[Key]:
    hints, docs = get_type_hints(type(node)), _docs(type(node))
    for one in fields(node):
        name, value = prefix + one.name, getattr(node, one.name)
        section, _, last = name.partition(".")
        if is_dataclass(value):
            yield from _keys(value, f"{name}.")
        elif section in SECTIONS and last == "name":
            kind = " | ".join(SECTIONS[section].names())
            yield Key(name, value, kind, (inspect.getdoc(type(node)) or "").partition("\n")[0])
        else:
            yield Key(name, value, _words(hints[one.name]), docs.get(one.name, ""))


def _words(kind: Any) -> str:
    """A type as a person reads it."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if kind is bool:
        return "true | false"
    if get_origin(kind) is list:
        return f"list of {_words(get_args(kind)[0])}"
    return {Any: "anything"}.get(kind, "mapping" if get_origin(kind) is dict else kind.__name__)


def _docs(kind: type[Any]) -> dict[str, str]:
    """Field -> the string below it in the source of the class, or of one that it inherits from, on one line."""
    result: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        except (OSError, TypeError):  # made at run time, or built in
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    result[name] = " ".join(text.split())
    return result
