"""docs/library.md followed to the letter: its blocks run from top to bottom, and do what is said beside them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.checkpoints import load_safetensors

PAGE = Path(__file__).parents[2] / "docs" / "library.md"


def test_the_blocks_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path))
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), found)  # as a notebook would
    assert found["y"].shape == (2, 64, 32) and found["D"].grad is not None
    assert found["logits"].shape == (4, 64, 512)
    assert found["trainer"].global_step == 20 and found["averaged"] is found["module"].ema
    assert found["run"].result()["step"] == 20
    network = found["network"]
    kept = load_safetensors(found["run"].final_weights, network.state_dict())
    assert all(torch.equal(weight, kept[name]) for name, weight in network.state_dict().items())
    assert found["samples"].images.shape == (18, 32, 32, 3) and found["images"].shape == (4, 32, 32, 3)
    assert math.isfinite(found["measured"].metrics["fd_efflite0"])
