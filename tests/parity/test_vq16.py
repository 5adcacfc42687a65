"""The VQ autoencoder against LlamaGen's VQ-16: keys, tokens, codes and reconstruction."""

from __future__ import annotations

import math
import zlib

import torch

from lightning_modules.tokenizers.vq import VQAutoencoder
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


def test_equal_to_official() -> None:
    model = VQAutoencoder([128, 128, 256, 256, 512], 2, 256, 16384, 8, groups=32).eval()
    shapes = _shapes()
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        k: s for k, s in shapes.items() if k not in UNUSED
    }
    model.load_state_dict({k: _regenerate(k, s) for k, s in shapes.items() if k not in UNUSED})
    with torch.inference_mode():
        tokens = model.encode(FIXTURE["x"])
        reconstruction, quantized = model(FIXTURE["x"])
    assert torch.equal(tokens.flatten(), FIXTURE["idx"].flatten())
    torch.testing.assert_close(quantized.codes, FIXTURE["quant"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reconstruction, FIXTURE["rec"], rtol=1e-4, atol=1e-4)
