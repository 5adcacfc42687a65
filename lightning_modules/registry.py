"""Registries: a name -> its configuration dataclass and the class it builds, without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lightning_modules.names import unknown_name


@dataclass(frozen=True)
class Entry:
    """One registered thing. `target` is "module:Class", imported only when something is built."""

    config: type[Any]
    target: str


class Registry:
    """Maps `name` to an `Entry`. `kind` is the word used in error messages, e.g. "generator"."""

    def __init__(self, kind: str, entries: dict[str, Entry]):
        self.kind = kind
        self.entries = entries

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self.entries)

    def __getitem__(self, name: str) -> Entry:
        """Raises ValueError, naming the closest valid name, when `name` is not registered."""
        if name not in self.entries:
            raise ValueError(unknown_name(self.kind, str(name), self.entries))
        return self.entries[name]

    def target(self, name: str) -> Any:
        """Import and return the registered class. Raises ValueError where it is not where the registry says."""
        module, _, attribute = self[name].target.partition(":")
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # of a package that the module itself imports
            file = module.replace(".", "/")
            raise ValueError(f"The {self.kind} '{name}' is registered as {module}; there is no {file}.py.") from error
        if not hasattr(found, attribute):
            raise ValueError(f"The {self.kind} '{name}' is registered as {attribute}, but {module} has no such class.")
        return getattr(found, attribute)

    def build(self, config: Any, *args: Any) -> Any:
        """Build what `config.name` stands for, from that configuration."""
        return self.target(config.name)(config, *args)
