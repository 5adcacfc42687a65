"""The one-call step of a Mamba-2 stack equals its layers one by one: sizes around the vector width, types, threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.generators.aim import AiM
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.kernels import available, backends_used, reset_backends_used
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
    monkeypatch.setenv("ABLATE_KERNELS", "auto")
    context = model.embed_condition(torch.zeros(65, dtype=torch.long), torch.zeros(65, dtype=torch.bool))
    assert model.start(context, 16, 65)[0].decode is None
