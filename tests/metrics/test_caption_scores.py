"""T2I-CompBench's scores: the rules by hand, and loading through tiny random models of the real architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.metrics.attribute_binding import AttributeBinding
from lightning_modules.metrics.caption_scores import SCORES, with_caption_scores
from lightning_modules.metrics.config import CAPTIONED, MetricsConfig
from lightning_modules.metrics.measurement import Measurement
from lightning_modules.metrics.phrases import Relation, noun_phrases, relation
from lightning_modules.metrics.spatial import NEAR, SpatialRelations, position, score
from tests.metrics.tiny import SIDE, save_blip_vqa, save_owlvit

IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip_vqa(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_owlvit(tmp_path_factory.mktemp("owl"))


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("A red book, the yellow vase.", ["a red book", "the yellow vase"]),
        ("a cat sitting on the leather couch", ["a cat", "the leather couch"]),
        ("A bathroom with green tile and a red shower curtain", ["a bathroom", "green tile", "a red shower curtain"]),
        ("a painting", ["a painting"]),
        ("a gold ring and a brick building", ["a gold ring", "a brick building"]),
        ("a woman wearing a red hat", ["a woman", "a red hat"]),
        ("a dog on the left of a chair", ["a dog", "a chair"]),
        ("a key on side of a red top", ["a key", "a red top"]),
        ("the", []),
    ],
)
def test_noun_phrases(prompt: str, phrases: list[str]) -> None:
    assert noun_phrases(prompt) == phrases


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a cat on the left of a red chair", Relation("cat", "left", "red chair")),
        ("A dog on the right of the car.", Relation("dog", "right", "car")),
        ("a bee on the bottom of a man", Relation("bee", "below", "man")),
        ("a bird on top of a clock", Relation("bird", "above", "clock")),
        ("a mouse near a key", Relation("mouse", "near", "key")),
        ("a painting next to a wooden swing", Relation("painting", "near", "wooden swing")),
        ("a red apple", None),
        ("nearby a key", None),
    ],
)
def test_relations(prompt: str, found: Relation | None) -> None:
    assert relation(prompt) == found


# --- spatial relations ------------------------------------------------------------------------------------------------


def test_positions_follow_centres_and_lose_by_overlap() -> None:
    west, east, south = (0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2), (0.2, 0.9, 0.2, 0.2)
    assert position("left", west, east) == position("right", east, west) == 1.0
    assert position("left", east, west) == position("above", west, east) == 0.0
    assert position("above", west, south) == position("below", south, west) == 1.0
    half = (0.3, 0.5, 0.2, 0.2)  # a third in common
    assert position("left", west, half) == pytest.approx(0.1 / (1 / 3))
    assert position("near", west, east) == 1.0  # on one line
    assert position("near", (0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1)) == pytest.approx(NEAR / 0.8)


def test_scores_weigh_detections_and_drop_what_is_below_a_half() -> None:
    boxes = ((0.2, 0.5, 0.2, 0.2), (0.8, 0.5, 0.2, 0.2))
    assert score("left", (0.8, 0.4), boxes) == pytest.approx(0.5 + 0.25 * 1.2)
    assert score("right", (0.8, 0.4), boxes) == 0.0  # 0.3 without the relation
    assert score("left", (0.9, 0.05), boxes) == 0.0  # the second was not found


def test_a_detector_looks_for_both_things(owl: Path) -> None:
    found = SpatialRelations(owl)
    confidence, boxes = found._detect(IMAGES, [Relation("cat", "left", "dog")] * 4)
    assert confidence.shape == (4, 2) and boxes.shape == (4, 2, 4) and (0 < confidence).all()
    swapped, _ = found._detect(IMAGES, [Relation("dog", "left", "cat")] * 4)
    torch.testing.assert_close(swapped.flip(1), confidence)
    values = found(IMAGES, ["a cat on the left of a dog", "a cat", "a dog near a cat", "a cat"], batch_size=3)
    assert np.isnan(values[[1, 3]]).all() and ((values[[0, 2]] >= 0) & (values[[0, 2]] <= 1)).all()
    assert found.protocol["detector"] == "owlvit"


# --- attribute binding ------------------------------------------------------------------------------------------------


def test_answers_are_those_of_transformers(blip: Path) -> None:
    scorer = AttributeBinding(blip)
    share = scorer._yes_share(IMAGES[:1], ["a red apple?"]).item()
    model, tokenizer = scorer.model, scorer.tokenizer
    text = tokenizer("a red apple?", return_tensors="pt")
    text["input_ids"][:, 0] = model.config.text_config.bos_token_id + 1
    with torch.no_grad():
        output = model.generate(
            **{k: text[k] for k in ("input_ids", "attention_mask")},
            pixel_values=scorer.pixels(IMAGES[:1]),
            max_new_tokens=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    yes, no = output.logits[0][0, tokenizer.convert_tokens_to_ids(["yes", "no"])].softmax(0)
    assert share == pytest.approx(yes.item(), abs=1e-5) and 0.01 < share < 0.99


def test_an_image_scores_the_product_over_its_phrases(blip: Path) -> None:
    scorer = AttributeBinding(blip)
    captions = ["a red apple and a green vase", "a red apple", "the", "a green vase"]
    values = scorer(IMAGES, captions, batch_size=2)
    both = scorer._yes_share(IMAGES[[0, 0]], ["a red apple?", "a green vase?"])
    assert values[0] == pytest.approx(both.prod().item(), abs=1e-6) and np.isnan(values[2])
    assert values[1] == pytest.approx(scorer._yes_share(IMAGES[1:2], ["a red apple?"]).item(), abs=1e-6)
    assert np.ptp(values[[0, 1, 3]]) > 1e-3


def test_another_model_is_refused(blip: Path, owl: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.blip_vqa_weights=.* holds a owlvit; it must be blip"):
        AttributeBinding(owl)
    with pytest.raises(ValueError, match="must be owlvit or owlv2"):
        SpatialRelations(blip)
    with pytest.raises(FileNotFoundError, match=r"evaluation\.detector_weights=.* is not a folder"):
        SpatialRelations(tmp_path / "nowhere")


def test_they_join_a_measurement_over_the_images_they_can_judge(blip: Path, owl: Path) -> None:
    without = Measurement({}, {}, {})
    captions = ["a red apple on the left of a book", "a red apple", "a book", "a vase"]
    settings = MetricsConfig(blip_vqa_weights=str(blip), detector_weights=str(owl), bootstrap=20)
    metrics, protocol, replicates = with_caption_scores(without, IMAGES, captions, settings)
    assert metrics["attribute_binding_low"] <= metrics["attribute_binding"] <= metrics["attribute_binding_high"]
    assert protocol["attribute_binding"]["images"] == 4 and protocol["spatial_relations"]["images"] == 1
    assert len(replicates["spatial_relations"]) == 20
    nothing = with_caption_scores(without, IMAGES, ["a vase"] * 4, MetricsConfig(detector_weights=str(owl)))
    assert "spatial_relations" not in nothing.metrics and nothing.protocol["spatial_relations"]["images"] == 0


def test_every_score_has_its_section() -> None:
    assert {kind.name: section for section, kind in SCORES.items()} == CAPTIONED
