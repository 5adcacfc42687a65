"""Remembers the parameters and FLOPs of what cells train, by its configuration and the project's sources."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from experiments.errors import UserError
from experiments.files import atomic_write_json
from experiments.model_facts import ModelFacts, build_facts
from experiments.run_config import RunConfig
from sweeps.cache import source_stamp

_KNOWN: dict[str, ModelFacts] = {}
"""Of this process: a plan, its preview and its launch ask in turn."""


class FactBook:
    """Looks facts up, or builds the generator (which imports torch) and notes them down.

    Args:
        root: the folder of all outputs; nothing is noted if it does not exist.
    """

    def __init__(self, root: Path):
        self._folder = root / "cache" / "facts"

    def facts(self, config: RunConfig) -> ModelFacts:
        """The facts of what the run trains, or of the layer that it times."""
        part = config.tokenizer if config.trains_tokenizer else config.generator
        part = config.benchmark if config.benchmark.name == "layer" else part
        text = json.dumps([asdict(part), source_stamp()], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in _KNOWN:
            _KNOWN[key] = self._read(key) or self._build(key, config)
        return _KNOWN[key]

    def _read(self, key: str) -> ModelFacts | None:
        with suppress(OSError, ValueError, TypeError):
            return ModelFacts(**json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8")))
        return None

    def _build(self, key: str, config: RunConfig) -> ModelFacts:
        facts = build_facts(config)
        if self._folder.parents[1].is_dir():
            with suppress(UserError):
                atomic_write_json(self._folder / f"{key}.json", asdict(facts))
        return facts
