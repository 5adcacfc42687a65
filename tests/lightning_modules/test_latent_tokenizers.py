"""Tokenizers that make latents: pixels, the embedded autoencoder without its quantiser, diffusers' KL autoencoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.emoji.data import load_emoji
from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.published.folders import WEIGHTS
from lightning_modules.tokenizers.config import TOKENIZERS, EmojiLatentConfig, EmojiVQConfig, KLConfig, PixelsConfig

IMAGES = torch.from_numpy(load_emoji(["twemoji"], "val").images[:16])
TINY_KL = {"image_size": 16, "downsample": 2, "latent_channels": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder of the real class, saved by diffusers in the real format."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=3,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    path = tmp_path_factory.mktemp("kl")
    model.save_pretrained(path)
    return path


def test_pixels_are_kept_exactly() -> None:
    tokenizer = TOKENIZERS.build(PixelsConfig())
    latents = tokenizer.encode_uint8(IMAGES)
    assert latents.shape == (16, 3, 32, 32) and latents.min() >= -1 and latents.max() <= 1
    assert torch.equal(tokenizer.decode_uint8(latents.half()), IMAGES)


def test_coarser_pixels_are_means_and_decode_to_full_size() -> None:
    config = PixelsConfig(downsample=2)
    tokenizer = TOKENIZERS.build(config)
    latents = tokenizer.encode_uint8(IMAGES)
    assert config.grid_size == 16 and latents.shape == (16, 3, 16, 16)
    expected = IMAGES[0, :2, :2].float().mean((0, 1)) / 127.5 - 1
    torch.testing.assert_close(latents[0, :, 0, 0], expected)
    decoded = tokenizer.decode_uint8(latents)
    assert decoded.shape == IMAGES.shape and (decoded.float() - IMAGES.float()).abs().mean() < 16
    assert config.fingerprint != PixelsConfig().fingerprint  # stores of different resolutions are kept apart


def test_embedded_latents_survive_small_errors() -> None:
    tokenizer = TOKENIZERS.build(EmojiLatentConfig()).eval()
    latents = tokenizer.encode_uint8(IMAGES)
    assert latents.shape == (16, 8, 8, 8) and latents.std().item() == pytest.approx(1.0, abs=0.1)
    quantized = TOKENIZERS.build(EmojiVQConfig()).eval()
    expected = quantized.decode_uint8(quantized.encode_uint8(IMAGES))
    assert torch.equal(tokenizer.decode_uint8(latents), expected)
    noisy = tokenizer.decode_uint8(
        latents + 0.1 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    )
    assert (noisy.float() - expected.float()).abs().mean() < 8


def test_kl_autoencoder_of_a_local_folder(folder: Path) -> None:
    tokenizer = TOKENIZERS.build(KLConfig(weights=str(folder), **TINY_KL)).eval()
    images = IMAGES[:2, :16, :16]
    latents = tokenizer.encode_uint8(images)
    assert latents.shape == (2, 3, 8, 8)
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    raw = tokenizer.autoencoder.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(latents, (raw - 0.25) * 0.5)  # shift and scaling of the folder's config.json
    decoded = tokenizer.autoencoder.decode(raw).sample.permute(0, 2, 3, 1)
    expected = (decoded * 127.5 + 127.5).round().clamp(0, 255)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(tokenizer.encode_uint8(images), latents)
        assert (tokenizer.decode_uint8(latents).float() - expected).abs().max() <= 1


def test_a_kl_autoencoder_may_have_no_shift(folder: Path, tmp_path: Path) -> None:
    """SDXL's config.json says null."""
    settings = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "shift_factor": None}))
    (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    without, shifted = (TOKENIZERS.build(KLConfig(weights=str(f), **TINY_KL)).eval() for f in (tmp_path, folder))
    images = IMAGES[:2, :16, :16]
    torch.testing.assert_close(without.encode_uint8(images), shifted.encode_uint8(images) + 0.25 * 0.5)
    assert torch.equal(
        without.decode_uint8(without.encode_uint8(images)), shifted.decode_uint8(shifted.encode_uint8(images))
    )


def test_kl_fingerprint_is_that_of_the_weights(folder: Path) -> None:
    overrides = {"tokenizer.name": "kl", "tokenizer.weights": str(folder), "generator.patch_size": 2}
    overrides |= {f"tokenizer.{key}": value for key, value in TINY_KL.items()}
    config = load_config("dimba/demo", overrides)
    assert len(config.tokenizer.fingerprint) == 64
    assert (config.generator.latent_channels, config.generator.grid_size) == (3, 8)


def test_a_folder_that_does_not_fit_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer.latent_channels=3 and tokenizer.downsample=2"):
        TOKENIZERS.build(KLConfig(weights=str(folder)))
    with pytest.raises(ValueError, match="no weights of its own"):
        TOKENIZERS.build(KLConfig())
    with pytest.raises(FileNotFoundError, match="config.json"):
        TOKENIZERS.build(KLConfig(weights=str(tmp_path)))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match="no whole AutoencoderKL"):
        TOKENIZERS.build(KLConfig(weights=str(tmp_path), **TINY_KL))


@pytest.mark.parametrize(
    ("lost", "more", "said"),
    [
        ("decoder.conv_out.weight", "", r"keys 1 missing \(first: decoder\.conv_out\.weight\)"),
        ("", "decoder.other", r"keys 1 unexpected \(first: decoder\.other\)"),
    ],
)
def test_weights_are_checked_key_by_key(folder: Path, tmp_path: Path, lost: str, more: str, said: str) -> None:
    state = load_file(folder / WEIGHTS)
    state = {key: value for key, value in state.items() if key != lost} | ({more: torch.ones(2)} if more else {})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=f"{tmp_path} does not fit this network: {said}"):
        TOKENIZERS.build(KLConfig(weights=str(tmp_path), **TINY_KL))


def test_the_names_that_attention_had_in_older_files_still_fit(folder: Path, tmp_path: Path) -> None:
    """As in sd-vae-ft-ema; diffusers renames them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folder / WEIGHTS)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    assert any(".query." in key for key in state)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / WEIGHTS, {"format": "pt"})
    loaded, same = (TOKENIZERS.build(KLConfig(weights=str(place), **TINY_KL)) for place in (tmp_path, folder))
    for key, value in same.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("generator", "tokenizer", "words"),
    [("dimba", "emoji_vq", "needs a tokenizer with"), ("maskmamba", "pixels", "needs a tokenizer with vocab_size")],
)
def test_tokens_and_latents_do_not_mix(generator: str, tokenizer: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(f"{generator}/demo", {"tokenizer.name": tokenizer})


def test_bad_sizes_are_one_sentence() -> None:
    for config in (PixelsConfig, KLConfig):
        with pytest.raises(ValueError, match="not a multiple of tokenizer.downsample"):
            config(image_size=32, downsample=5)
