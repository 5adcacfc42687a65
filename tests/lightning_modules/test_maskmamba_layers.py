"""MaskMamba's layers and mixers against their formulas, written out position by position in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.layers.attention import SelfAttention
from lightning_modules.layers.bi_mamba import BiMamba
from lightning_modules.layers.bi_mamba_v2 import BiMambaV2
from lightning_modules.layers.block import Block
from lightning_modules.layers.config import BiMambaConfig, BiMambaV2Config
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.hybrid import GroupBlock, build_layers
from lightning_modules.layers.ssm import SelectiveSSM

WIDTH, LENGTH = 16, 7


def _drawn(module: Any) -> Any:
    """In float64, every parameter off its start."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def _input() -> Tensor:
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    variance = x.var(-1, correction=0, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def _convolved(x: Tensor, conv: ShortConv | None, before: int) -> Tensor:
    """silu of the sum over taps, the first of which reads `before` positions earlier."""
    if conv is None:
        return F.silu(x)
    taps = conv.weight.shape[1]
    padded = F.pad(x, (0, 0, before, taps - 1 - before))
    return F.silu(conv.bias + sum(padded[:, tap : tap + LENGTH] * conv.weight[:, tap] for tap in range(taps)))


def _scanned(ssm: SelectiveSSM, x: Tensor, direction: int) -> Tensor:
    """Section 3.2 of arXiv 2312.00752; direction 1 goes through the sequence from its end."""
    x_proj, dt_proj, dt_bias, A_log, D = (
        parameter[min(direction, len(parameter) - 1)]
        for parameter in (ssm.x_proj, ssm.dt_proj, ssm.dt_bias, ssm.A_log, ssm.D)
    )
    dt, B, C = (x @ x_proj.T).split([ssm.dt_rank, ssm.d_state, ssm.d_state], dim=-1)
    dt = F.softplus(dt @ dt_proj.T + dt_bias)
    state, outputs = torch.zeros(*x[:, 0].shape, ssm.d_state, dtype=x.dtype), torch.empty_like(x)
    for i in reversed(range(LENGTH)) if direction else range(LENGTH):
        state = torch.exp(dt[:, i, :, None] * -A_log.exp()) * state
        state = state + (dt[:, i] * x[:, i])[..., None] * B[:, i, None]
        outputs[:, i] = (state * C[:, i, None]).sum(-1) + D * x[:, i]
    return outputs


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"d_conv": 5, "branch_ratio": 1.0},
        {"conv": "causal"},
        {"conv": "none"},
        {"z_conv": False},
        {"merge": "multiply"},
        {"share_ssm": True},
        {"divide_out": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_bi_mamba_v2_is_equation_1(settings: dict[str, Any]) -> None:
    config = BiMambaV2Config(**{"d_state": 4, **settings})
    mixer, x = _drawn(BiMambaV2(WIDTH, config)), _input()
    assert {len(parameter) for parameter in mixer.ssm.parameters()} == {1 if config.share_ssm else 2}
    before = (config.d_conv - 1) // (2 if config.conv == "standard" else 1)
    branch, z = (x @ mixer.in_proj.weight.T).chunk(2, dim=-1)
    branch, z = _convolved(branch, mixer.conv_x, before), _convolved(z, mixer.conv_z, before)
    y = (_scanned(mixer.ssm, branch, 0) + _scanned(mixer.ssm, branch, 1)) / (2 if config.divide_out else 1)
    merged = torch.cat([y, z], dim=-1) if config.merge == "concat" else y * z
    torch.testing.assert_close(mixer(x), merged @ mixer.out_proj.weight.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sharing", ["v1", "v2"])
@torch.no_grad()
def test_bi_mamba_is_vision_mambas(sharing: Any) -> None:
    """v1: one causal convolution, and of the backward direction A alone is its own; v2: all but in and out is."""
    mixer, x = _drawn(BiMamba(WIDTH, BiMambaConfig(d_state=4, weight_sharing=sharing))), _input()
    branch, z = (x @ mixer.in_proj.weight.T).chunk(2, dim=-1)
    u = _convolved(branch, mixer.conv, 3)
    v = u if sharing == "v1" else _convolved(branch, mixer.conv_reverse, 0)
    y = (_scanned(mixer.ssm, u, 0) + _scanned(mixer.ssm, v, 1)) / 2
    assert len(mixer.ssm.A_log) == 2 and len(mixer.ssm.x_proj) == (1 if sharing == "v1" else 2)
    torch.testing.assert_close(mixer(x), (y * F.silu(z)) @ mixer.out_proj.weight.T, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_layer_norms_what_its_branches_read_and_adds_what_they_say() -> None:
    layer, x = _drawn(Block(WIDTH, SelfAttention(WIDTH, 2), 2.0, dropout=0.0)), _input()
    h = x + layer.mixer(_normed(x, layer.norm))
    first, _, second = layer.mlp
    expected = h + second(F.gelu(first(_normed(h, layer.mlp_norm))))
    torch.testing.assert_close(layer(x), expected)
    single = _drawn(Block(WIDTH, SelfAttention(WIDTH, 2), 0.0, dropout=0.0))
    torch.testing.assert_close(single(x), x + single.mixer(_normed(x, single.norm)))


@torch.no_grad()
def test_a_group_joins_its_branches_in_their_order() -> None:
    branches = [Block(WIDTH // 2, SelfAttention(WIDTH // 2, 2), 0.0, dropout=0.0) for _ in range(2)]
    layer, x = _drawn(GroupBlock(WIDTH, branches)), _input()
    joined = torch.cat([branches[0](x[..., : WIDTH // 2]), branches[1](x[..., WIDTH // 2 :])], dim=-1)
    torch.testing.assert_close(layer(x), x + layer.project(_normed(joined, layer.norm)))


@pytest.mark.parametrize(
    ("scheme", "order"), [("uniform", "MMMM"), ("serial_v1", "MSMS"), ("serial_v2", "MMSS"), ("group_v1", 4 * "(MS)")]
)
def test_layers_stand_in_the_order_of_their_scheme(scheme: Any, order: str) -> None:
    def letter(layer: nn.Module) -> str:
        if isinstance(layer, GroupBlock):
            return f"({''.join(map(letter, layer.branches))})"
        return "S" if isinstance(layer.mixer, SelfAttention) else "M"

    layers = build_layers(MaskMambaConfig(width=32, depth=4, heads=4, hybrid_scheme=scheme))
    assert "".join(map(letter, layers)) == order


@pytest.mark.parametrize("mixer", ["bi_mamba", "bi_mamba_v2"])
def test_one_group_scans_forward_and_one_backward(mixer: str) -> None:
    config = MaskMambaConfig(width=32, depth=2, heads=4, mixer=mixer, hybrid_scheme="group_v2")
    forward, backward, *rest = build_layers(config)[0].branches
    assert forward.mixer.ssm.directions == ("forward",) and backward.mixer.ssm.directions == ("reverse",)
    assert all(isinstance(branch.mixer, SelfAttention) for branch in rest) and len(rest) == 2
    x = torch.randn(1, LENGTH, 8)
    moved = x.index_add(1, torch.tensor([3]), torch.ones(1, 1, 8))
    seen = [((b.mixer(moved) - b.mixer(x)).abs().amax(-1)[0] > 1e-7).tolist() for b in (forward, backward)]
    if mixer == "bi_mamba":  # whose convolutions look one way too
        assert seen == [[i >= 3 for i in range(LENGTH)], [i <= 3 for i in range(LENGTH)]]
