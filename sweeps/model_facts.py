"""Exact parameters and FLOPs of a cell's generator, built without memory or arithmetic; remembered by content."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.config import RunConfig
from experiments.errors import UserError
from experiments.files import atomic_write_json
from sweeps.cache import PROJECT

BACKWARD = 2
"""A backward pass costs about twice its forward pass: every matrix product has two gradients."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, apart from its weights."""

    parameters: int
    flops: int
    """Of one forward pass over one sample; a multiplication and an addition count one each."""

    def training_flops(self, config: RunConfig) -> int:
        """Of the whole training."""
        return (1 + BACKWARD) * self.flops * config.trainer.batch_size * config.trainer.max_steps


class FactBook:
    """Looks facts up, or builds the generator (which imports torch) and notes them down.

    Args:
        root: the folder of all outputs; nothing is noted if it does not exist.
    """

    def __init__(self, root: Path):
        self._folder = root / "cache" / "facts"
        self._known: dict[str, ModelFacts] = {}
        sources = sorted((PROJECT / "lightning_modules").rglob("*.py"))
        self._sources = [[path.name, path.stat().st_mtime_ns, path.stat().st_size] for path in sources]

    def facts(self, config: RunConfig) -> ModelFacts:
        """The facts of what the run trains, or of the layer that it times."""
        part = config.tokenizer if config.objective.name == "reconstruction" else config.generator
        part = config.benchmark if config.benchmark.name == "layer" else part
        text = json.dumps([asdict(part), self._sources], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        if key not in self._known:
            self._known[key] = self._read(key) or self._build(key, config)
        return self._known[key]

    def _read(self, key: str) -> ModelFacts | None:
        with suppress(OSError, ValueError, TypeError):
            return ModelFacts(**json.loads((self._folder / f"{key}.json").read_text()))
        return None

    def _build(self, key: str, config: RunConfig) -> ModelFacts:
        facts = build_facts(config)
        if self._folder.parents[1].is_dir():
            with suppress(UserError):
                atomic_write_json(self._folder / f"{key}.json", asdict(facts))
        return facts


def build_facts(config: RunConfig) -> ModelFacts:
    """Build what the run trains from tensors that have a shape and no content, run it once, and count."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    import lightning_modules.kernels  # noqa: F401  (a counter knows the operations registered before it was made)

    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        if config.benchmark.name == "layer":
            from experiments.benchmarks.cells.layer import build_layer

            model = build_layer(config.benchmark).eval()
            model(torch.zeros(1, config.benchmark.length, config.benchmark.width))
        elif config.objective.name == "reconstruction":
            from lightning_modules.tokenizers.config import TOKENIZERS

            model = TOKENIZERS.build(replace(config.tokenizer, weights="")).eval()
            side = config.tokenizer.image_size
            model(torch.zeros(1, 3, side, side))
        else:
            from lightning_modules.generators.config import GENERATORS

            model = GENERATORS.build(config.generator).eval()
            model(*model.example_inputs())
    return ModelFacts(sum(p.numel() for p in model.parameters()), counter.get_total_flops())
