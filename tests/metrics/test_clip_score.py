"""CLIP score through a tiny random CLIP of the real architecture, against torchmetrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.metrics.caption_scores import with_caption_scores
from lightning_modules.metrics.clip_score import CLIPScore
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.measurement import Measurement
from tests.text_encoders.tiny import save_clip

CAPTIONS = ["a red dragon", "pizza", "an apple", "a green dragon eating a pizza " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(CAPTIONS), 32, 32, 3), dtype=np.uint8)


def test_it_is_the_cosine_of_both_embeddings(folder: Path, images: np.ndarray) -> None:
    score = CLIPScore(folder)
    found = score(images, CAPTIONS, batch_size=3)
    for image, caption, value in zip(images, CAPTIONS, found, strict=True):
        inputs = score._inputs(image[None], [caption])
        with torch.no_grad():
            logits = score.model(**inputs).logits_per_image / score.model.logit_scale.exp()
        assert value == pytest.approx(100 * logits.item(), abs=1e-3)
    assert np.ptp(found) > 0.1


def test_it_agrees_with_torchmetrics(folder: Path, images: np.ndarray) -> None:
    multimodal = pytest.importorskip("torchmetrics.functional.multimodal")
    score = CLIPScore(folder)

    class Features:
        """What torchmetrics asks of a model, for any version of transformers."""

        config = score.model.config

        def to(self, device: torch.device) -> Features:
            return self

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return score.model(pixel_values=pixels, input_ids=torch.zeros(1, 1, dtype=torch.long)).image_embeds

        def get_text_features(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            pixels = torch.zeros(1, 3, 30, 30)
            return score.model(pixel_values=pixels, input_ids=ids, attention_mask=mask).text_embeds

    def processor(text: list[str] | None = None, images: list[torch.Tensor] | None = None, **options: object) -> dict:
        if text is not None:
            return score.tokenizer(text, **options)
        return score.processor(images=images, return_tensors="pt")

    few = CAPTIONS[:3]
    expected = multimodal.clip_score(
        list(torch.from_numpy(images[:3]).permute(0, 3, 1, 2)), few, lambda: (Features(), processor)
    )
    assert score(images[:3], few).mean() == pytest.approx(expected.item(), abs=1e-3)


def test_what_is_no_clip_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"evaluation\.clip_weights=.* is not a folder"):
        CLIPScore(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="No weights"):
        CLIPScore(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be loaded as a clip"):
        CLIPScore(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks visual_projection\.weight; name a folder with all of CLIPModel"):
        CLIPScore(tmp_path)
    with pytest.raises(ValueError, match="4 images but 1 captions"):
        CLIPScore(folder)(np.zeros((4, 32, 32, 3), np.uint8), ["a"])


def test_it_joins_a_measurement_with_its_interval(folder: Path, images: np.ndarray) -> None:
    without = Measurement({"fid": 1.0}, {"num_samples": 4}, {})
    settings = MetricsConfig(clip_weights=str(folder), bootstrap=50)
    metrics, protocol, replicates = with_caption_scores(without, images, CAPTIONS, settings)
    assert metrics["clip_score"] == pytest.approx(CLIPScore(folder)(images, CAPTIONS).mean())
    assert metrics["clip_score_low"] < metrics["clip_score"] < metrics["clip_score_high"] and metrics["fid"] == 1.0
    assert protocol["clip"]["fingerprint"] == CLIPScore(folder).fingerprint and len(replicates["clip_score"]) == 50
    assert with_caption_scores(without, images, CAPTIONS, MetricsConfig()) == without
    assert with_caption_scores(without, images, (), settings) == without
