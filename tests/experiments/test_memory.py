"""The peak memory of a run is its own, not that of what its process did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.config import load_config
from experiments.memory import peak_memory_bytes, reset_peak_memory
from experiments.run import train
from tests.experiments.configs import tiny_preset


def test_a_run_reports_its_own_peak(tmp_path: Path) -> None:
    if reset_peak_memory() is None:
        pytest.skip("this system does not forget the peak")
    torch.ones(2**27)  # 512 MiB, freed at once
    before = peak_memory_bytes()
    peak = (train(load_config(tiny_preset(tmp_path, "run"))).result() or {})["peak_memory_bytes"]
    assert 0 < peak < before - 2**28
