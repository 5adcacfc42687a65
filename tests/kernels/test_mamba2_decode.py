"""The one-call step of a Mamba-2 stack equals its layers one by one: sizes around the vector width, types, threads."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from lightning_modules.generators.aim import AiM
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.kernels import available, backends_used, mamba2_decoder, reset_backends_used
from lightning_modules.layers.config import Mamba2Config

SIZES = {
    "even": AiMConfig(
        vocab_size=48, grid_size=4, num_classes=3, width=64, depth=3, adaln_groups=2, adaln_init="random"
    ),
    "odd": AiMConfig(
        vocab_size=37,
        grid_size=4,
        num_classes=3,
        width=21,
        depth=2,
        adaln="per_layer",
        adaln_init="random",
        mamba2=Mamba2Config(d_state=13, d_conv=3, head_width=7),
    ),
    "plain": AiMConfig(
        vocab_size=5, grid_size=4, num_classes=3, width=32, depth=1, adaln="none", final_adaln=False,
        mamba2=Mamba2Config(d_state=16, d_conv=2, head_width=16),
    ),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    available()["mamba2_decode"]["cpp"] is not None, reason=f"no C++ kernels: {available()['mamba2_decode']['cpp']}"
)


def _decode(model: AiM, batch: int, backend: str, monkeypatch: pytest.MonkeyPatch, threads: int = 0) -> Tensor:
    """Logits of 5 tokens (5, B, V), float32; those after the first by so many threads."""
    monkeypatch.setenv("ABLATE_KERNELS", f"mamba2_decode={backend}")
    reset_backends_used()
    labels = torch.arange(batch) % 3
    context = model.embed_condition(labels, torch.zeros(batch, dtype=torch.bool))
    state, logits = model.start(context, 16, batch)
    found = [logits]
    if threads:
        torch.set_num_threads(threads)
    for position in range(4):
        tokens = (torch.arange(batch) * 3 + position) % model.config.vocab_size
        found.append(model.step(tokens, state, position))
    assert backends_used()["mamba2_decode"] == backend
    return torch.stack(found).float()


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_the_layers_one_by_one(size: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = AiM(SIZES[size]).eval()
    for parameter in model.parameters():  # far from the start, where half of the network is silent
        parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = _decode(model, batch, "torch", monkeypatch)
    torch.testing.assert_close(_decode(model, batch, "cpp", monkeypatch), expected, rtol=2e-5, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", ["even", "odd"])
def test_in_bfloat16(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = AiM(SIZES[size]).eval()
    exact = _decode(model, 2, "torch", monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (_decode(model, 2, backend, monkeypatch) for backend in ("cpp", "torch"))
    size_of = exact.abs().max()
    assert (found - exact).abs().max() < 0.03 * size_of
    assert (found - exact).abs().mean() <= 1.2 * (expected - exact).abs().mean()  # no worse than PyTorch in this type


@torch.no_grad()
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = AiM(SIZES["even"]).eval()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(3)
            results.append(_decode(model, 5, "cpp", monkeypatch, threads))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@torch.no_grad()
def test_many_samples_go_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AiM(SIZES["plain"]).eval()
    with pytest.raises(ValueError, match="takes up to 64 samples, not 65"):
        _decode(model, 65, "cpp", monkeypatch)
    context = model.embed_condition(torch.zeros(65, dtype=torch.long), torch.zeros(65, dtype=torch.bool))
    for forced in ("auto", "cpp"):
        monkeypatch.setenv("ABLATE_KERNELS", forced)
        reset_backends_used()
        state, _ = model.start(context, 16, 65)
        model.step(torch.zeros(65, dtype=torch.long), state, 0)
        assert state.decode is None and backends_used()["depthwise_conv1d_update"] == "cpp"


SHAPES = {
    "in_proj": (24, 8), "out_proj": (8, 8), "taps": (4, 14), "conv_bias": (14,), "dt_bias": (2,), "A": (2,),
    "skip": (2,), "norm": (8,), "shift": (2, 8), "scale": (2, 8), "gate": (2, 8), "window": (2, 3, 14),
    "state": (2, 2, 4, 3),
}  # fmt: skip
"""Of a layer of width 8 with 2 heads of 4 channels, 3 states and 4 taps, for 2 samples."""
ENDS = {"norm": (8,), "final_shift": (2, 8), "final_scale": (2, 8), "head": (5, 8)}


@pytest.mark.parametrize(
    ("layer", "ends", "message"),
    [
        ({"out_proj": (5, 8)}, {}, "out_proj must be (8, 8), not (5, 8)"),
        ({"conv_bias": (2,)}, {}, "conv_bias must be (14,), not (2,)"),
        ({"in_proj": (23, 8)}, {}, "in_proj must be (24, 8), not (23, 8)"),
        ({"gate": (1, 8)}, {}, "gate must be (2, 8), not (1, 8)"),
        ({"window": (2, 4, 14)}, {}, "window must be (2, 3, 14), not (2, 4, 14)"),
        ({"skip": (2, 1)}, {}, "skip must be (2,), not (2, 1)"),
        ({}, {"norm": (7,)}, "norm must be (8,), not (7,)"),
        ({}, {"final_scale": (1, 8)}, "final_scale must be (2, 8), not (1, 8)"),
        ({}, {"head": (5, 7)}, "head must be (5, 8), not (5, 7)"),
    ],
    ids=lambda value: next(iter(value), "-") if isinstance(value, dict) else "",
)
def test_tensors_that_do_not_fit_are_refused(layer: dict, ends: dict, message: str) -> None:
    layers = [{name: torch.zeros(shape) for name, shape in shapes.items()} for shapes in (SHAPES, SHAPES | layer)]
    with pytest.raises(ValueError, match=re.escape(message)):
        mamba2_decoder(layers, *(torch.zeros(shape) for shape in (ENDS | ends).values()), 1e-5, backend="cpp")


def test_inputs_that_do_not_fit_are_refused() -> None:
    layer = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    decode = mamba2_decoder([layer], *map(torch.zeros, ENDS.values()), 1e-5, backend="cpp")
    assert decode is not None and torch.equal(decode(torch.ones(2, 8)), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=re.escape("residual must be (2, 8), not (8,)")):
        decode(torch.ones(8))
    with pytest.raises(ValueError, match="residual wants a gradient, but decoding has none"):
        decode(torch.ones(2, 8, requires_grad=True))
    with torch.no_grad():
        assert not decode(torch.ones(2, 8, requires_grad=True)).requires_grad
