"""The one-call step of a Transformer equals its layers one by one: sizes around the vector width, types, threads."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.configs.llamagen import LlamaGenConfig
from lightning_modules.generators.llamagen import LlamaGen
from lightning_modules.kernels import available, backends_used, reset_backends_used, transformer_decoder
from lightning_modules.samplers.autoregressive import AutoregressiveSampler
from lightning_modules.samplers.config import AutoregressiveSamplerConfig
from lightning_modules.samplers.noise import Noise

SIDE = 7
LENGTH = SIDE**2  # steps see 2 to 49 positions: fewer than a vector's lanes, whole vectors, and a rest
CAPTION = 5
SIZES = {
    "even": LlamaGenConfig(
        vocab_size=48, grid_size=SIDE, num_classes=3, width=64, depth=3, heads=2, mlp_multiple=16, dropout=0
    ),
    # Heads of 12 channels, 37 hidden ones, 33 codes: neither vectors nor tiles come out even.
    "odd": LlamaGenConfig(
        vocab_size=33, grid_size=SIDE, num_classes=3, width=12, depth=2, heads=1, mlp_multiple=37, dropout=0
    ),
    "narrow": LlamaGenConfig(
        vocab_size=7, grid_size=SIDE, num_classes=3, width=20, depth=1, heads=5, mlp_multiple=1, dropout=0
    ),
    "wide": LlamaGenConfig(
        vocab_size=16, grid_size=SIDE, num_classes=3, width=84, depth=1, heads=1, mlp_multiple=8, dropout=0
    ),
    "caption": LlamaGenConfig(
        vocab_size=48, grid_size=SIDE, width=48, depth=2, heads=2, mlp_multiple=16, dropout=0, condition="text",
        text_tokens=CAPTION, text_width=8, prefix_rotation="zero",
    ),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    available()["transformer_decode"]["cpp"] is not None,
    reason=f"no C++ kernels: {available()['transformer_decode']['cpp']}",
)


def _build(config: LlamaGenConfig) -> LlamaGen:
    """With random weights throughout: a fresh output projection is zero."""
    torch.manual_seed(0)
    model = LlamaGen(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name), std=0.2)
    return model


def _decode(model: LlamaGen, batch: int, backend: str, monkeypatch: pytest.MonkeyPatch, threads: int = 0) -> Tensor:
    """Logits of all tokens (L, B, V), float32; those after the first by so many threads."""
    monkeypatch.setenv("ABLATE_KERNELS", f"transformer_decode={backend}")
    reset_backends_used()
    condition: Tensor | TextFeatures = torch.arange(batch) % 3
    if model.config.condition == "text":
        mask = torch.arange(CAPTION) <= torch.arange(batch)[:, None] % CAPTION
        features = torch.randn(batch, CAPTION, 8, generator=torch.Generator().manual_seed(1))
        condition = TextFeatures(features * mask[..., None], mask)
    context = model.embed_condition(condition, torch.zeros(batch, dtype=torch.bool))
    state, logits = model.start(context, LENGTH, batch)
    found = [logits]
    if threads:
        torch.set_num_threads(threads)
    for position in range(LENGTH - 1):
        tokens = (torch.arange(batch) * 3 + position) % model.config.vocab_size
        found.append(model.step(tokens, state, position))
    assert backends_used()["transformer_decode"] == backend
    return torch.stack([step.float() for step in found])


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9, 17])
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_layers_one_by_one(size: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build(SIZES[size])
    expected = _decode(model, batch, "torch", monkeypatch)
    found = _decode(model, batch, "cpp", monkeypatch)
    # Both are within 3e-6 of float64.
    assert (found - expected).abs().max() < 5e-6 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_in_bfloat16(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, cache and the inputs of products have 8 bits; PyTorch also rounds what comes out of each product, so the
    step must err no more than that."""
    model = _build(SIZES[size])
    exact = _decode(model, 3, "torch", monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (_decode(model, 3, backend, monkeypatch) for backend in ("cpp", "torch"))
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()
    assert (found - exact).abs().mean() <= (expected - exact).abs().mean()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build(SIZES["even"])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(3)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                results.append(_decode(model, 5, "cpp", monkeypatch, threads))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "settings", [{}, {"guidance": 3.0, "position_shift": "official"}, {"temperature": 1e-4}], ids=str
)
def test_draws_the_same_image(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = _build(SIZES["even"]), []
    for backend in ("cpp", "torch"):
        monkeypatch.setenv("ABLATE_KERNELS", f"transformer_decode={backend}")
        sampler = AutoregressiveSampler(AutoregressiveSamplerConfig(**settings))
        for _ in range(2):  # the state of the first serves the second
            images.append(sampler(model, torch.tensor([0, 1, 2]), Noise(0, torch.arange(3))))
    assert all(torch.equal(image, images[0]) for image in images) and len(images[0].unique()) > 5


@torch.no_grad()
def test_many_samples_go_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _build(SIZES["narrow"])
    with pytest.raises(ValueError, match="takes up to 64 samples, not 65"):
        _decode(model, 65, "cpp", monkeypatch)
    context = model.embed_condition(torch.zeros(65, dtype=torch.long), torch.zeros(65, dtype=torch.bool))
    for forced in ("auto", "cpp", "transformer_decode=cpp,cpp"):
        monkeypatch.setenv("ABLATE_KERNELS", forced)
        assert model.start(context, LENGTH, 65)[0].decode is None
    monkeypatch.setenv("ABLATE_KERNELS", "auto")
    context = model.double().embed_condition(torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.bool))
    assert model.start(context, LENGTH, 2)[0].decode is None


def _tensors(batch: int = 2, heads: int = 2, positions: int = 5) -> dict[str, Tensor]:
    """Of one layer of 8 channels, 3 hidden ones and 6 codes."""
    shapes = {"qkv": (24, 8), "out_proj": (8, 8), "gate_up": (6, 8), "down": (8, 3), "norm": (8,), "mlp_norm": (8,)}
    cache = (batch, heads, positions, 8 // heads)
    return {name: torch.zeros(shape) for name, shape in (shapes | {"keys": cache, "values": cache}).items()}


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("qkv", torch.zeros(23, 8), "qkv must be (24, 8), not (23, 8)"),
        ("down", torch.zeros(8, 3, dtype=torch.bfloat16), "down must be contiguous torch.float32"),
        ("gate_up", torch.zeros(8, 6).T, "gate_up must be contiguous torch.float32 on the CPU, not strided"),
        ("norm", torch.zeros(8, dtype=torch.bfloat16), "norm must be contiguous torch.float32"),
        ("values", torch.zeros(2, 2, 4, 4), "values must be (2, 2, 5, 4), not (2, 2, 4, 4)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, wrong: Tensor, message: str) -> None:
    others = torch.ones(8), torch.zeros(6, 8), torch.ones(2, 1, 1, 5, dtype=torch.bool), 1e-5
    with pytest.raises(ValueError, match=re.escape(message)):
        transformer_decoder([_tensors() | {name: wrong}], *others)


def test_heads_of_odd_width_are_refused() -> None:
    odd = _tensors() | {name: torch.zeros(2, 2, 5, 3) for name in ("keys", "values")}
    others = torch.ones(6), torch.zeros(6, 6), torch.ones(2, 1, 1, 5, dtype=torch.bool), 1e-5
    with pytest.raises(ValueError, match="Heads must be of even width, .* not of 3"):
        transformer_decoder([odd], *others, backend="cpp")


@pytest.mark.parametrize(
    ("residual", "rotation", "message"),
    [
        (torch.ones(8), torch.ones(2, 2), "residual must be (2, 8), not (8,)"),
        (torch.ones(2, 8), torch.ones(2), "rotation must be (2, 2), not (2,)"),
        (torch.ones(2, 8, requires_grad=True), torch.ones(2, 2), "residual wants a gradient, but decoding has none"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(residual: Tensor, rotation: Tensor, message: str) -> None:
    others = torch.ones(8), torch.zeros(6, 8), torch.ones(2, 1, 1, 5, dtype=torch.bool), 1e-5
    decode = transformer_decoder([_tensors()], *others, backend="cpp")
    assert decode is not None
    with pytest.raises(ValueError, match=re.escape(message)):
        decode(residual, rotation, 0)
    with torch.no_grad():
        logits = decode(torch.ones(2, 8, requires_grad=True), torch.ones(2, 2), 0)
    assert not logits.requires_grad


def test_a_position_beyond_the_cache_is_refused() -> None:
    others = torch.ones(8), torch.zeros(6, 8), torch.ones(2, 1, 1, 5, dtype=torch.bool), 1e-5
    decode = transformer_decoder([_tensors()], *others, backend="cpp")
    assert decode is not None and torch.equal(decode(torch.ones(2, 8), torch.ones(2, 2), 4), torch.zeros(2, 6))
    for position in (-1, 5):
        with pytest.raises(IndexError, match=f"has 5 positions, none with number {position}"):
            decode(torch.ones(2, 8), torch.ones(2, 2), position)
