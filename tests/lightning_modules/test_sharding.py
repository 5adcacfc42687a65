"""Fully sharded networks in two processes train and sample as whole ones do, for every generator."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.generators.config import GENERATORS
from tests.lightning_modules.sharding_worker import PRESETS


def test_every_generator_trains_and_samples_alike_whole_and_sharded(tmp_path: Path) -> None:
    assert {load_config(preset).generator.name for preset in PRESETS} == set(GENERATORS.names())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", "tests.lightning_modules.sharding_worker"]
    both = [
        subprocess.Popen([*words, str(rank), port, str(tmp_path / "found.json")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.keys() == set(PRESETS) and all(apart < 1e-4 for apart in found.values()), found


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"optim.optimizer": "came", "optim.betas": [0.9, 0.99, 0.999]}, "optim.optimizer=came"),
        ({"trainer.compile": True}, "trainer.compile=true"),
        ({"trainer.precision": "fp16"}, "trainer.precision=fp16"),
    ],
)
def test_what_cannot_be_sharded_is_refused(overrides: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"runtime.strategy=fsdp does not go with {words}"):
        load_config("maskmamba/demo", {"runtime.strategy": "fsdp", **overrides})
