"""The VQ autoencoder against LlamaGen's VQ-16: keys, tokens, codes and reconstruction."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import pytest
import torch

from lightning_modules.tokenizers.config import TOKENIZERS, LlamaGenVQConfig
from tests.parity.fixtures import load, text

FIXTURE = load("vq16_tiny.pt")
UNUSED = {"quantize.codebook_used"}  # bookkeeping of the official training code


def _shapes() -> dict[str, tuple[int, ...]]:
    result = {}
    for line in text("vq16_keys.txt").splitlines():
        key, _, shape = line.partition(" ")
        result[key] = tuple(int(n) for n in shape.strip("() ").split(",") if n.strip())
    return result


def _regenerate(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if len(shape) >= 2:
        return torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
    return 0.1 * torch.randn(shape, generator=generator) + (1.0 if key.endswith("weight") else 0.0)


def test_published_file_loads_and_equals_official(tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) if key in UNUSED else _regenerate(key, shape) for key, shape in _shapes().items()}
    torch.save({"model": state, "steps": 1}, tmp_path / "vq_ds16_c2i.pt")
    config = LlamaGenVQConfig(weights=str(tmp_path / "vq_ds16_c2i.pt"))
    model = TOKENIZERS.build(config).eval()
    assert (config.grid_size, config.vocab_size) == (16, 16384)
    with torch.inference_mode():
        tokens = model.encode(FIXTURE["x"])
        reconstruction, quantized = model(FIXTURE["x"])
        decoded = model.decode_uint8(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.decode_uint8(tokens), decoded), "in float32, whatever a run computes in"
    assert torch.equal(tokens.flatten(), FIXTURE["idx"].flatten())
    torch.testing.assert_close(quantized.codes, FIXTURE["quant"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reconstruction, FIXTURE["rec"], rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"model": {"encoder.conv_in.weight": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match="does not fit this network"):
        TOKENIZERS.build(LlamaGenVQConfig(weights=str(file)))
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged or not a torch file"):
        TOKENIZERS.build(LlamaGenVQConfig(weights=str(file)))
    with pytest.raises(ValueError, match="no weights of its own"):
        TOKENIZERS.build(LlamaGenVQConfig())
