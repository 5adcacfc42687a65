"""`ablate import-checkpoint` on whole files in the published layout, tokenizers included."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from experiments.store import RunStore
from tests.conftest import Ablate
from tests.parity.fixtures import text

SHAPES = json.loads(text("aim_hub_keys.json"))
TRAINING_ONLY = "vqvae.quantize.codebook_used"


def _state() -> dict[str, torch.Tensor]:
    """Random weights under every published key; small, so that 72M of them are drawn quickly."""
    generator = torch.Generator().manual_seed(0)
    return {key: torch.empty(shape).normal_(0, 0.02, generator=generator) for key, shape in SHAPES.items()}


def test_published_files_import_and_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablate: Ablate) -> None:
    monkeypatch.setenv("ABLATE_ROOT", str(tmp_path / "out"))
    state = _state()
    save_file(state, tmp_path / "model.safetensors")
    code, out, _ = ablate("import-checkpoint", "aim", tmp_path / "model.safetensors", "trainer.precision=fp32")
    assert code == 0 and f"1 not used: {TRAINING_ONLY}." in out and "needs evaluation.reference=FILE" in out
    assert "captions" not in out
    (run,) = RunStore(tmp_path / "out").runs()
    config = run.config()
    assert (config.generator.width, config.generator.depth, config.generator.adaln_groups) == (64, 4, 2)
    assert run.result()["parameters"] == sum(v.numel() for k, v in state.items() if k.startswith("mamba."))
    words = ("--class", 7, "--count", 1, "--out", tmp_path / "image.png", "runtime.threads=1", "sampler.guidance=1")
    assert ablate("sample", run.id, *words)[0] == 0
    assert np.asarray(Image.open(tmp_path / "image.png")).shape == (1024, 1024, 3)

    # The tokenizer alone has LlamaGen's layout: imported from a file of its own, it is the same.
    (file,) = (tmp_path / "out" / "tokenizers").iterdir()
    assert str(file) == config.tokenizer.weights
    weights = load_file(file)
    assert all(torch.equal(weights[key], state[f"vqvae.{key}"]) for key in weights)
    code, out, _ = ablate("import-checkpoint", "llamagen-vq", file)
    assert code == 0 and f"343 tensors taken over and checked.\nWrote {file}." in out
