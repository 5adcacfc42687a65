"""What a network makes of the condition alone is computed once per sampling, and changes no bit of what it gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.configs.mmamba import CrossScanConfig, MMambaConfig
from lightning_modules.generators.configs.muse import UViTConfig
from lightning_modules.samplers.config import SAMPLERS, DPMSolverConfig, HaltonConfig, MaskGITConfig
from lightning_modules.samplers.noise import Noise

WORDS = 5
SMALL: dict[str, Any] = {"grid_size": 4, "text_tokens": WORDS, "text_width": 12, "width": 32, "depth": 3, "heads": 2}
ENDS: dict[str, Any] = {
    "vocab_size": 40,
    "pooled_width": 8,
    "embed_width": 24,
    "end_width": 16,
    "end_blocks": 2,
    "end_heads": 2,
    "micro_width": 16,
}
NO_WORDS = CrossScanConfig(text="none")
NETWORKS = {
    "dimba": DimbaConfig(latent_channels=4, **SMALL),
    "uvit": UViTConfig(**SMALL, **ENDS),
    "uvit, ends as wide as the stack": UViTConfig(**SMALL, **(ENDS | {"end_width": 32})),
    "uvit, masked padding": UViTConfig(**SMALL, **ENDS, mask_padding=True),
    "mmamba": MMambaConfig(**SMALL, **ENDS),
    "mmamba, attention beside the scan": MMambaConfig(**SMALL, **ENDS, cross_attention=True),
    "mmamba, words kept": MMambaConfig(**SMALL, **ENDS, cross_attention=True, text_update=False),
    "mmamba, attention alone": MMambaConfig(**SMALL, **ENDS, cross_attention=True, cross_scan=NO_WORDS),
}
WORDS_STAY = [name for name in NETWORKS if name not in ("mmamba", "mmamba, attention beside the scan")]
"""Networks in which nothing but cross-attention touches the words, and none changes them."""


@torch.no_grad()
def build(name: str) -> Any:
    """A network of which every parameter is drawn: what starts at zero would hide errors."""
    torch.manual_seed(0)
    network = GENERATORS.build(NETWORKS[name]).eval()
    for parameter in network.parameters():
        parameter.normal_(std=0.2)
    return network


def captions() -> TextFeatures:
    """Two of them, one with padding."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    return TextFeatures(torch.randn(2, WORDS, 12), mask, torch.randn(2, 8))


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_it_changes_no_bit(name: str) -> None:
    network, text, drop = build(name), captions(), torch.tensor([False, True])
    inputs: tuple[Tensor, ...] = (torch.arange(32).view(2, 16),)
    rest: tuple[Tensor, ...] = ()
    if name == "dimba":
        inputs, rest = (torch.randn(2, 4, 4, 4),), (torch.tensor([13.0, 700.0]),)
    anew = network(*inputs, network.embed_condition(text, drop), *rest)
    context = network.sampling_context(text, drop)
    for _ in range(2):
        assert torch.equal(anew, network(*inputs, context, *rest))
    assert not torch.equal(anew, network(*inputs, network.sampling_context(captions(), drop), *rest))


MASKED = [pytest.param(name, sampler(steps=4)) for name in WORDS_STAY[1:] for sampler in (MaskGITConfig, HaltonConfig)]


@pytest.mark.parametrize(("name", "sampler"), [("dimba", DPMSolverConfig(steps=4)), *MASKED])
def test_sampling_projects_the_words_once(name: str, sampler: Any) -> None:
    network, calls = build(name), Counter[nn.Module]()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].dim() == 3 and inputs[0].shape[1] == WORDS:
            calls[module] += 1

    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    SAMPLERS.build(sampler)(network, captions(), Noise(0, torch.arange(2)))
    assert len(calls) > 3 and set(calls.values()) == {1}
