"""The tokenizer taming_vq: a checkpoint in the published layout, equal to diffusers' network of the same design."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel

from lightning_modules.checkpoints import read_weights
from lightning_modules.tokenizers.config import TOKENIZERS, LlamaGenVQConfig, TamingVQConfig
from lightning_modules.tokenizers.llamagen_vq import layout
from lightning_modules.tokenizers.taming_vq import TamingVQ
from lightning_modules.tokenizers.vq import VQAutoencoder

WIDTHS = (8, 8, 16)
RES = {"conv_shortcut": "nin_shortcut"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TamingVQ, "groups", 4)
    monkeypatch.setattr(TamingVQ, "latent_width", 6)


@pytest.fixture(scope="module")
def reference() -> VQModel:
    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=WIDTHS,
        down_block_types=("DownEncoderBlock2D",) * 2 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 2,
        layers_per_block=2,
        latent_channels=6,
        num_vq_embeddings=32,
        vq_embed_dim=5,
        norm_num_groups=4,
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # lively enough for many codes to be in use
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()) if name[0] != "q" else 1)
        else:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    return model


def published(model: VQModel) -> dict[str, torch.Tensor]:
    """The state of diffusers' network under the names of taming-transformers, attention as 1 x 1 convolutions."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("conv_norm_out", "norm_out").replace("down_blocks", "down").replace("samplers.0", "sample")
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block")
        if "up_blocks." in key:
            head, _, rest = key.partition("up_blocks.")
            level, _, rest = rest.partition(".")
            key = f"{head}up.{len(WIDTHS) - 1 - int(level)}.{rest}"
        attention = "attn_1" in key or "attentions" in key
        key = key.replace("attentions", "attn")
        for name, other in (ATTENTION if attention else RES).items():
            key = key.replace(name, other)
        state[key] = value[..., None, None] if attention and value.ndim == 2 else value
    return state


@pytest.fixture(scope="module")
def checkpoint(reference: VQModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Lightning 1.0 wrote them: callbacks by class, optimizer states, the losses' networks."""
    module = types.ModuleType("pytorch_lightning")
    for name, bases in (("ModelCheckpoint", ()), ("AttributeDict", (dict,))):
        setattr(module, name, type(name, bases, {"__module__": "pytorch_lightning"}))
    folder = tmp_path_factory.mktemp("vqgan_imagenet_f16_1024")
    (folder / "ckpts").mkdir()
    losses = {"loss.discriminator.main.0.weight": torch.ones(2), "loss.perceptual_loss.lin0.weight": torch.ones(2)}
    content = {
        "epoch": 3,
        "callbacks": {module.ModelCheckpoint: {"best_model_score": np.float64(1)}},
        "hyper_parameters": module.AttributeDict(a=1),
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "state_dict": published(reference) | losses,
    }
    sys.modules["pytorch_lightning"] = module
    try:
        torch.save(content, folder / "ckpts/last.ckpt")
    finally:
        del sys.modules["pytorch_lightning"]
    return folder


def config_of(folder: Path, **change: object) -> TamingVQConfig:
    sizes = {"weights": str(folder), "image_size": 32, "downsample": 4, "codebook_size": 32, "code_width": 5}
    return TamingVQConfig(**({**sizes, "channels": list(WIDTHS)} | change))


def test_equal_to_diffusers(reference: VQModel, checkpoint: Path) -> None:
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    tokenizer = TOKENIZERS.build(config_of(checkpoint)).eval()
    tokens = tokenizer.encode_uint8(images)
    with torch.inference_mode():
        pixels = images.permute(0, 3, 1, 2) / 127.5 - 1
        expected = reference.quantize(reference.encode(pixels).latents)[2][2].reshape(3, -1)
        codes = reference.quantize.get_codebook_entry(tokens.flatten(), (3, 8, 8, 5))
        decoded, mine = reference.decoder(reference.post_quant_conv(codes)), tokenizer.decode(tokens)
    assert torch.equal(tokens, expected) and len(tokens.unique()) > 8
    torch.testing.assert_close(mine, decoded, rtol=1e-4, atol=1e-4)


def test_it_computes_in_float32_under_autocast(checkpoint: Path) -> None:
    """Samples of a run in bfloat16 are decoded as the published code decodes them, and its images encoded."""
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokenizer = TOKENIZERS.build(config_of(checkpoint)).eval()
    tokens = tokenizer.encode_uint8(images)
    decoded = tokenizer.decode_uint8(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode_uint8(images), tokens)
        assert torch.equal(tokenizer.decode_uint8(tokens), decoded)
        assert not torch.equal(VQAutoencoder.decode_uint8(tokenizer, tokens), decoded), "autocast was on"


def test_the_published_sizes() -> None:
    """Names and shapes of f16-1024 are those of LlamaGen's VQ-16, but for its codebook's."""
    config = TamingVQConfig()
    assert (config.downsample, config.grid_size, config.vocab_size) == (16, 16, 1024)
    theirs = layout(LlamaGenVQConfig(codebook_size=1024, code_width=256))
    assert config.channels == LlamaGenVQConfig().channels and theirs["quantize.embedding.weight"].shape == (1024, 256)


def test_file_or_folder(checkpoint: Path) -> None:
    assert config_of(checkpoint).weight_file() == config_of(checkpoint / "ckpts/last.ckpt").weight_file()


def test_wrong_files_are_one_sentence(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 32 codes.*set tokenizer.codebook_size=32"):
        TOKENIZERS.build(config_of(checkpoint, codebook_size=64))
    with pytest.raises(ValueError, match="does not fit this network: keys .* missing"):
        TOKENIZERS.build(config_of(checkpoint, channels=[8, 8, 8, 16], downsample=8))
    with pytest.raises(ValueError, match="no weights of its own"):
        TOKENIZERS.build(TamingVQConfig())
    with pytest.raises(FileNotFoundError, match="weights=FILE"):
        TOKENIZERS.build(config_of(tmp_path))
    with pytest.raises(ValueError, match="not a multiple of tokenizer.downsample=4"):
        config_of(tmp_path, image_size=30)


class Runs:
    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_nothing_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"hook": Runs(), "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
    assert read_weights(tmp_path / "x.ckpt")["a"].tolist() == [1, 1]
