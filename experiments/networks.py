"""The network that a run trains: built, given its first weights, and counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from experiments.run_config import RunConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.tokenizers.config import TOKENIZERS


def new_network(config: RunConfig) -> torch.nn.Module:
    """The network that the run trains, as its class starts it."""
    if config.trains_tokenizer:
        return TOKENIZERS.build(replace(config.tokenizer, weights=""))
    return GENERATORS.build(config.generator)


def build_network(config: RunConfig) -> torch.nn.Module:
    """The network that the run trains, with initial weights that depend on the seed alone."""
    torch.manual_seed(config.seed)
    network: Any = new_network(config)
    if hasattr(network, "start_from_published"):
        network.start_from_published()
    return network


def count_parameters(network: torch.nn.Module) -> dict[str, int]:
    """All parameters, and those outside the tables (of tokens, positions, classes) that papers leave out at times."""
    total = sum(p.numel() for p in network.parameters())
    tables = {m.weight for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    tables |= {p for name, p in network.named_parameters() if name.rpartition(".")[2].startswith("position_")}
    return {"parameters": total, "non_embedding_parameters": total - sum(table.numel() for table in tables)}
