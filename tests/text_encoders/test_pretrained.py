"""T5 and CLIP through real loading code, with tiny random models of the real architecture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.text_encoders import pretrained
from lightning_modules.text_encoders.config import TEXT_ENCODERS, CLIPConfig, T5Config
from tests.text_encoders.tiny import clip_text_settings, save_clip_text, save_t5, transformers

CAPTIONS = ["a red dragon eating a green pizza", "apple", "a green apple", ""]


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_text(tmp_path_factory.mktemp("clip"))


def t5(folder: Path, **settings: object) -> T5Config:
    return T5Config(model=str(folder), text_width=32, dtype="fp32", **settings)


def clip(folder: Path, **settings: object) -> CLIPConfig:
    return CLIPConfig(model=str(folder), text_width=32, pooled_width=24, **settings)


@torch.no_grad()
def test_t5_features_are_those_of_each_caption_alone(t5_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "BATCH", 3)
    encoder = TEXT_ENCODERS.build(t5(t5_folder))
    found = encoder.encode(CAPTIONS)
    model = transformers().T5EncoderModel.from_pretrained(t5_folder).eval()
    tokenizer = transformers().AutoTokenizer.from_pretrained(t5_folder)
    expected = [model(**tokenizer(c, return_tensors="pt")).last_hidden_state[0].numpy() for c in CAPTIONS]
    assert found.lengths.tolist() == [8, 2, 4, 1] == [len(e) for e in expected]
    assert found.features.dtype == np.float16 and found.pooled is None
    np.testing.assert_allclose(found.features, np.concatenate(expected), atol=5e-3)
    encoder.release()
    np.testing.assert_array_equal(encoder.encode(CAPTIONS).features, found.features)


def test_long_captions_are_cut_before_encoding_and_keep_their_end(t5_folder: Path) -> None:
    found = TEXT_ENCODERS.build(t5(t5_folder, text_tokens=3)).encode(["a red dragon eating a pizza"])
    same = TEXT_ENCODERS.build(t5(t5_folder)).encode(["a red"])
    np.testing.assert_allclose(found.features, same.features, atol=5e-3)


@torch.no_grad()
@pytest.mark.parametrize(("padding", "layer"), [("masked", -2), ("encoded", -2), ("masked", -1), ("masked", 1)])
def test_clip_gives_the_states_of_its_layer_and_the_projection(clip_folder: Path, padding: str, layer: int) -> None:
    assert clip(clip_folder).layer == -2
    found = TEXT_ENCODERS.build(clip(clip_folder, padding=padding, layer=layer)).encode(["a dragon", "red"])
    model = transformers().CLIPTextModelWithProjection.from_pretrained(clip_folder / "text_encoder").eval()
    tokenizer = transformers().AutoTokenizer.from_pretrained(clip_folder / "tokenizer")
    tokens = tokenizer(["a dragon", "red"], padding="max_length", max_length=77, return_tensors="pt")
    output = model(tokens["input_ids"], output_hidden_states=True)  # as aMUSEd calls it
    kept = torch.ones_like(tokens["attention_mask"]) if padding == "encoded" else tokens["attention_mask"]
    assert found.lengths.tolist() == ([77, 77] if padding == "encoded" else [9, 5])
    np.testing.assert_allclose(found.features, output.hidden_states[layer][kept.bool()], atol=5e-3)
    np.testing.assert_allclose(found.pooled, output.text_embeds, atol=5e-3)


@pytest.mark.parametrize(
    ("dtype", "device", "computes", "used"),
    [
        ("bf16", "cpu", True, torch.bfloat16),
        ("bf16", "cpu", False, torch.float32),
        ("bf16", "cuda", False, torch.bfloat16),
        ("fp16", "cpu", False, torch.float16),
    ],
)
def test_bfloat16_gives_way_on_a_cpu_that_lacks_it_and_nowhere_else(
    dtype: str, device: str, computes: bool, used: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "computes_bfloat16", lambda kind: computes)
    assert pretrained.PretrainedEncoder(T5Config(dtype=dtype), device)._dtype() == used


def test_padded_features_are_zero_and_masked(clip_folder: Path) -> None:
    features, mask, pooled = TEXT_ENCODERS.build(clip(clip_folder)).encode(["red", "a dragon"]).padded(12)
    assert features.shape == (2, 12, 32) and mask.sum(1).tolist() == [5, 9] and pooled.shape == (2, 24)
    assert features.dtype == torch.float32 and not features[~mask].any() and features[mask].abs().sum(1).all()


def test_the_fingerprint_follows_weights_not_places(t5_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(t5_folder, tmp_path / "copy")
    configs = [t5(t5_folder), t5(copy)]
    for config in configs:
        config.resolve()
    assert configs[0].fingerprint == configs[1].fingerprint and configs[0].features_id == configs[1].features_id
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    configs[1].resolve()
    assert configs[0].fingerprint != configs[1].fingerprint


def test_what_is_not_there_is_said_in_words(t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not there; name the folder"):
        t5(tmp_path / "nowhere").resolve()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        t5(tmp_path).resolve()
    with pytest.raises(ValueError, match="set text_encoder.text_width=32"):
        T5Config(model=str(t5_folder)).resolve()
    with pytest.raises(ValueError, match=r"needs text_encoder\.model=FOLDER"):
        TEXT_ENCODERS.build(T5Config()).encode(["a"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors or"):
        t5(tmp_path).resolve()
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be loaded"):
        TEXT_ENCODERS.build(t5(tmp_path)).encode(["a"])


def test_a_name_on_the_hub_is_its_own_identity() -> None:
    config = T5Config(model="google/flan-t5-xxl", text_width=4096, text_tokens=350)
    config.resolve()
    assert config.fingerprint == "google/flan-t5-xxl@main"


def test_an_encoder_without_all_of_its_weights_is_refused_by_their_names(tmp_path: Path) -> None:
    """As Stable Diffusion's text encoder has no projection; the library would draw one."""
    save_clip_text(tmp_path)
    settings = transformers().CLIPTextConfig(**clip_text_settings(), projection_dim=24)
    shutil.rmtree(tmp_path / "text_encoder")
    transformers().CLIPTextModel(settings).save_pretrained(tmp_path / "text_encoder")
    config = clip(tmp_path)
    config.resolve()
    with pytest.raises(ValueError, match=r"lacks text_projection\.weight; name a folder with all of CLIPText"):
        TEXT_ENCODERS.build(config).encode(["a dragon"])


def test_a_decoder_beside_the_encoder_is_no_obstacle(tmp_path: Path) -> None:
    save_t5(tmp_path)
    library = transformers()
    library.T5ForConditionalGeneration(library.T5Config.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    assert TEXT_ENCODERS.build(t5(tmp_path)).encode(["a red dragon"]).features.shape == (4, 32)
