"""Benchmark cell `parts`: every part of both networks runs, and the scan alone is the one inside the mixer."""

from __future__ import annotations

import pytest
import torch

from experiments.benchmarks.cells import parts
from experiments.config import load_config
from experiments.run_config import RunConfig
from lightning_modules.metrics.config import METRICS

TINY = {
    "generator.width": 32,
    "generator.heads": 2,
    "generator.depth": 2,
    "generator.embed_width": 16,
    "generator.end_width": 16,
    "generator.end_heads": 2,
    "generator.end_blocks": 1,
    "benchmark.name": "parts",
    "benchmark.batch_size": 2,
}


def _config(name: str, **overrides: object) -> RunConfig:
    return load_config("mmamba/paper", {"generator.name": name, **TINY, **overrides})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("uvit", {}, ["kernel", "self_attention", "cross_attention", "layer", "stack", "network"]),
        ("mmamba", {}, ["kernel", "mixer", "layer", "stack", "network"]),
        (
            "mmamba",
            {"generator.cross_attention": True, "generator.cross_scan.text": "none"},
            ["kernel", "mixer", "cross_attention", "layer", "stack", "network"],
        ),
    ],
)
def test_every_part_runs(name: str, overrides: dict, expected: list[str], precision: str) -> None:
    config = _config(name, **overrides, **{"trainer.precision": precision})
    cell = parts.PartsCell(config, torch.device("cpu"))
    assert list(cell.phases) == expected
    for phase in cell.phases.values():
        phase.call()
        assert phase.seconds in METRICS


def test_parameters_are_the_stacks() -> None:
    cells = [parts.PartsCell(_config(name), torch.device("cpu")) for name in ("uvit", "mmamba")]
    layers = [parts.PartsCell(_config(n, **{"generator.depth": 1}), torch.device("cpu")) for n in ("uvit", "mmamba")]
    assert [cell.parameters for cell in cells] == [2 * layer.parameters for layer in layers]


def test_the_scan_alone_has_the_mixers_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        seen.append((tuple(u.shape), tuple(delta.shape), tuple(A.shape), tuple(options["order"].shape)))
        return u

    cell = parts.PartsCell(_config("mmamba"), torch.device("cpu"))
    monkeypatch.setattr(parts, "selective_scan", record)
    monkeypatch.setattr("lightning_modules.layers.ssm.selective_scan", record)
    cell.phases["kernel"].call()
    cell.phases["mixer"].call()
    assert seen[0] == seen[1] == ((2, 333, 64), (2, 4, 333, 64), (4, 64, 16), (4, 333))


def test_other_networks_are_refused() -> None:
    config = load_config("maskmamba/demo", {"benchmark.name": "parts", "generator.width": 40})
    with pytest.raises(ValueError, match="uvit and mmamba"):
        parts.PartsCell(config, torch.device("cpu"))
