"""The weights that networks start from, as the papers and their code have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.generators.aim import AiM
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.configs.llamagen import LlamaGenConfig
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.generators.configs.mmamba import MMambaConfig
from lightning_modules.generators.dimba import Dimba
from lightning_modules.generators.llamagen import LlamaGen
from lightning_modules.generators.maskmamba import MaskMamba
from lightning_modules.generators.mmamba import MMamba
from lightning_modules.layers.adaln import AdaLN
from lightning_modules.layers.config import Mamba2Config
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.cross_scan_layer import AdaptiveNorm
from lightning_modules.layers.mamba2 import Mamba2
from lightning_modules.layers.ssm import SelectiveSSM

WIDTH, DEPTH = 64, 4
TOKENS: dict[str, Any] = {"vocab_size": 512, "grid_size": 8, "num_classes": 40, "width": WIDTH, "depth": DEPTH}
MIXER = Mamba2Config(d_state=8, head_width=16)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _is_normal(tensor: Tensor, std: float) -> None:
    """Nearly all of a uniform distribution lies within 1.75 of its deviations; 8 % of a normal one lies without."""
    assert tensor.std().item() == pytest.approx(std, rel=0.1)
    assert (tensor.abs() > 1.75 * std).float().mean().item() == pytest.approx(0.08, abs=0.03)


def _is_uniform(tensor: Tensor, bound: float) -> None:
    assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1) and tensor.abs().max() <= bound * 1.0001


def _is_mambas(dt_bias: Tensor) -> None:
    """dt log-uniform in [0.001, 0.1]: as many below 0.01 as above."""
    dt = nn.functional.softplus(dt_bias)
    assert dt.min() > 0.00099 and dt.max() < 0.1001
    assert (dt < 0.01).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_a_selective_ssm_is_mambas() -> None:
    ssm = SelectiveSSM(256, 8, ("forward", "reverse"), model_width=WIDTH)
    _is_mambas(ssm.dt_bias)
    torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 9).expand(2, 256, 8))
    assert (ssm.D == 1).all() and ssm.dt_rank == 4
    _is_uniform(ssm.x_proj, 256**-0.5)
    _is_uniform(ssm.dt_proj, 4**-0.5)


def test_a_mamba_2_mixer_is_the_reference() -> None:
    mixer = Mamba2(512, MIXER)
    _is_mambas(mixer.dt_bias)
    A = mixer.A_log.exp()
    assert 1 <= A.min() < 3 and 14 < A.max() <= 16 and A.mean().item() == pytest.approx(8.5, abs=1.5)
    assert (mixer.D == 1).all() and (mixer.norm.weight == 1).all()


def test_a_short_convolution_is_pytorchs() -> None:
    conv, theirs = ShortConv(512, 4, "causal"), nn.Conv1d(512, 512, 4, groups=512)
    for ours, other in ((conv.weight, theirs.weight), (conv.bias, theirs.bias)):
        _is_uniform(ours, 0.5)
        _is_uniform(other, 0.5)


def test_random_modulation_is_aims() -> None:
    adaln = AdaLN(WIDTH, DEPTH, 2, vectors=3, tables=True, init="random")
    _is_uniform(adaln.project.weight, WIDTH**-0.5)
    assert not adaln.project.bias.any() and adaln.table is not None
    _is_normal(adaln.table, WIDTH**-0.5)


@pytest.mark.parametrize("tables", ["separate", "shared"])
def test_maskmamba(tables: Any) -> None:
    model = MaskMamba(MaskMambaConfig(**TOKENS, heads=4, position_tables=tables))
    learned = ["position_image"] if tables == "separate" else ["position_sequence"]
    for table in (model.token_embedding.weight, model.condition.table.weight, *map(model.get_parameter, learned)):
        _is_normal(table, 0.02)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _is_uniform(module.weight, (6 / sum(module.weight.shape)) ** 0.5)
            assert module.bias is None or not module.bias.any()
    assert not model.head_bias.any()


def test_llamagen() -> None:
    model = LlamaGen(LlamaGenConfig(**TOKENS, heads=4, mlp_multiple=8))
    for name, weight in model.named_parameters():
        if name == "head.weight":
            assert not weight.any()
        elif weight.dim() == 2:
            _is_normal(weight, 0.02)
        else:
            assert (weight == 1).all()


def test_aim() -> None:
    model = AiM(AiMConfig(**TOKENS, mamba2=MIXER, adaln_init="random"))
    assert model.position_embedding is not None and model.final_adaln is not None and model.adaln is not None
    for table in (model.token_embedding, model.position_embedding, model.condition.table):
        _is_normal(table.weight, 0.02)
    for layer in model.layers:
        _is_uniform(layer.mixer.in_proj.weight, WIDTH**-0.5)
        _is_uniform(layer.mixer.out_proj.weight, (2 * WIDTH * DEPTH) ** -0.5)
    assert model.adaln.project.weight.any() and not model.final_adaln.project.weight.any()


def test_dimba() -> None:
    sizes: dict[str, Any] = {"latent_channels": 4, "grid_size": 8, "width": WIDTH, "depth": 2, "heads": 4}
    model = Dimba(DimbaConfig(**sizes, text_tokens=5, text_width=32, mamba_adaln=True))
    _is_uniform(model.patch_embed.weight, (6 / (16 + WIDTH)) ** 0.5)
    for adaln in (model.adaln, model.mamba_adaln):
        assert adaln is not None and adaln.table is not None and not adaln.project.bias.any()
        _is_normal(adaln.project.weight, 0.02)
        _is_normal(adaln.table, WIDTH**-0.5)
    assert model.head.table.std().item() == pytest.approx(WIDTH**-0.5, rel=0.2)
    for linear in (model.time.mlp[0], model.time.mlp[2], model.condition.project[0], model.condition.project[2]):
        _is_normal(linear.weight, 0.02)
    for block in model.blocks:
        _is_uniform(block.attention.qkv.weight, (6 / (4 * WIDTH)) ** 0.5)
        assert not block.cross_attention.out_proj.weight.any()
    assert not model.head.linear.weight.any()


def test_mmamba() -> None:
    ends: dict[str, Any] = {"embed_width": 48, "end_width": 48, "end_blocks": 1, "end_heads": 2, "micro_width": 16}
    text: dict[str, Any] = {"text_tokens": 5, "text_width": 32, "pooled_width": 32}
    sizes: dict[str, Any] = {"vocab_size": 100, "grid_size": 4, "width": WIDTH, "depth": 2, "heads": 2}
    model = MMamba(MMambaConfig(**sizes, **text, **ends))
    norms = [module for module in model.modules() if isinstance(module, AdaptiveNorm)]
    assert len(norms) == 4 and not any(norm.linear.weight.any() for norm in norms if norm.linear is not None)
    for layer in model.layers:
        _is_normal(layer.mixer.in_proj.weight, 0.02)
        _is_mambas(layer.mixer.ssm.dt_bias)
    _is_normal(model.amused.encoder_proj.weight, 0.02)
