"""The tokenizer amused_vq: a folder in the published layout, equal to diffusers' own use of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors.torch import load_file, save_file

from lightning_modules.published.folders import WEIGHTS
from lightning_modules.tokenizers.config import TOKENIZERS, AmusedVQConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = VQModel(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=6,
        num_vq_embeddings=32,
        norm_num_groups=4,
        lookup_from_codebook=True,
        force_upcast=True,
        mid_block_add_attention=False,
    )
    torch.nn.init.normal_(model.quantize.embedding.weight)
    path = tmp_path_factory.mktemp("amused")
    model.save_pretrained(path / "vqvae")
    return path


def _config(folder: Path, **change) -> AmusedVQConfig:
    return AmusedVQConfig(**{"weights": str(folder), "image_size": 32, "downsample": 4, "codebook_size": 32} | change)


def test_equal_to_diffusers(folder: Path) -> None:
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    tokenizer = TOKENIZERS.build(_config(folder)).eval()
    tokens = tokenizer.encode_uint8(images)
    assert tokens.shape == (2, 64) and len(tokens.unique()) > 4
    model = VQModel.from_pretrained(folder / "vqvae").eval()
    processor = VaeImageProcessor(vae_scale_factor=4, do_normalize=False)
    with torch.inference_mode():
        pixels = processor.preprocess(images.numpy() / 255.0)
        expected = model.quantize(model.encode(pixels.float()).latents)[2][2].reshape(2, -1)
        decoded = model.decode(tokens.reshape(2, 8, 8), force_not_quantize=True, shape=(2, 8, 8, 6)).sample.clip(0, 1)
    assert torch.equal(tokens, expected)
    difference = tokenizer.decode_uint8(tokens).float() - decoded.permute(0, 2, 3, 1) * 255
    assert difference.abs().max() <= 0.51


def test_the_part_itself_is_a_folder_too(folder: Path) -> None:
    assert _config(folder).weight_file() == _config(folder / "vqvae").weight_file()
    assert (_config(folder).grid_size, _config(folder).vocab_size) == (8, 32)


def test_wrong_folders_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set tokenizer.codebook_size=32"):
        TOKENIZERS.build(_config(folder, codebook_size=8192))
    with pytest.raises(ValueError, match="no weights of its own"):
        TOKENIZERS.build(AmusedVQConfig())
    with pytest.raises(FileNotFoundError, match="as published"):
        TOKENIZERS.build(_config(tmp_path))
    with pytest.raises(ValueError, match="image_size"):
        _config(folder, image_size=30)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no whole VQModel"):
        TOKENIZERS.build(_config(tmp_path))


@pytest.mark.parametrize(("lost", "more"), [("decoder.conv_out.weight", ""), ("", "decoder.other")])
def test_weights_are_checked_key_by_key(folder: Path, tmp_path: Path, lost: str, more: str) -> None:
    state = load_file(folder / "vqvae" / WEIGHTS)
    state = {key: value for key, value in state.items() if key != lost} | ({more: torch.ones(2)} if more else {})
    (tmp_path / "config.json").write_bytes((folder / "vqvae" / "config.json").read_bytes())
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=f"1 {'missing' if lost else 'unexpected'} .first: {lost or more}"):
        TOKENIZERS.build(_config(tmp_path))
