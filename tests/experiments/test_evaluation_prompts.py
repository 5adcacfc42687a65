"""Captions of other sources than the run's own: COCO's with a reference, and a file of prompts with scores beside them.

The published models (CLIP, BLIP-VQA, OWL-ViT) are tiny random ones of the same architectures.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.emoji.data import load_emoji
from datamodules.emoji.labels import CATEGORIES
from experiments.conditions import evaluation_conditions, read_prompts
from experiments.config import load_config
from experiments.errors import UserError
from experiments.evaluation import evaluate
from experiments.identity import evaluation_id
from experiments.reference import ReferenceJob, make_reference
from experiments.run import train
from experiments.run_config import RunConfig
from experiments.shards import Shards
from experiments.store import Run
from lightning_modules.metrics.statistics import ReferenceStatistics, write_statistics
from tests.datamodules.collections import coco
from tests.datamodules.collections import run as tokenize
from tests.experiments.configs import tiny_preset
from tests.metrics.tiny import save_blip_vqa, save_owlvit
from tests.text_encoders.tiny import save_clip, save_clip_text

CAPTIONED: dict[str, Any] = {
    "data": {"condition": "caption"},
    "generator": {"condition": "text"},
    "text_encoder": {"name": "clip", "text_width": 32, "pooled_width": 24},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Run]:
    folder = tmp_path_factory.mktemp("trained")
    encoder = save_clip_text(folder / "clip_text")
    preset = tiny_preset(folder, "tiny", **CAPTIONED)
    config = load_config(preset, {"text_encoder.model": str(encoder), "evaluation.num_samples": 6})
    return config, train(config)


def _evaluation(config: RunConfig, **changes: Any) -> RunConfig:
    words = {f"evaluation.{key}": str(value) for key, value in changes.items()}
    root, encoder = config.runtime.root, config.text_encoder.model
    return load_config(config.preset, {**words, "text_encoder.model": encoder, "runtime.root": root})


def _result(config: RunConfig, run: Run) -> dict[str, Any]:
    return json.loads((evaluate(config, run).folder / "result.json").read_text())


def test_captions_and_statistics_of_coco(trained: tuple[RunConfig, Run], tmp_path: Path) -> None:
    base, run = trained
    source = coco(tmp_path / "coco", range(12))
    tokenize("coco", source, tmp_path / "stores", "val")
    make_reference(ReferenceJob("coco", source, tmp_path / "coco.npz", size=32, count=10))
    settings = {"dataset": "coco", "dataset_root": tmp_path / "stores", "dataset_reference": tmp_path / "coco.npz"}
    config = _evaluation(base, **settings, clip_weights=save_clip(tmp_path / "clip"), num_samples=12)
    result = _result(config, run)
    assert result["metrics"]["fd_efflite0"] > 0 and -100 <= result["metrics"]["clip_score"] <= 100
    assert result["protocol"]["reference"].startswith("coco/val") and "12 captions of coco/val" in str(
        result["protocol"]["prompts"]
    )
    captions = evaluation_conditions(config).captions
    assert len(set(captions)) == 12 and all(caption.startswith("picture ") for caption in captions)
    with pytest.raises(ValueError, match=r"evaluation\.reference=FILE"):  # tokens carry no real images
        evaluate(_evaluation(base, dataset="coco", dataset_root=tmp_path / "stores"), run)


def test_captions_keep_their_classes_against_a_file(trained: tuple[RunConfig, Run], tmp_path: Path) -> None:
    base, run = trained
    emoji = load_emoji(["noto"])
    kept = np.concatenate([np.flatnonzero(emoji.labels == label)[:3] for label in range(len(CATEGORIES))])
    images, labels = emoji.images[kept], emoji.labels[kept]
    file = tmp_path / "emoji.npz"
    write_statistics(file, ReferenceStatistics("emoji", 0, {}, images, 32, labels=labels, classes=CATEGORIES))
    result = _result(_evaluation(base, reference=file), run)
    assert 0 <= result["metrics"]["class_accuracy_efflite0"] <= 1 and result["protocol"]["probe"]["images"] == 27


def test_a_wrong_model_costs_no_samples(
    trained: tuple[RunConfig, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = trained
    monkeypatch.setattr(Shards, "fill", lambda *_: pytest.fail("sampled before the check"))
    config = _evaluation(base, clip_weights=save_blip_vqa(tmp_path / "blip"), num_samples=4)
    with pytest.raises(ValueError, match=r"evaluation\.clip_weights=.* holds a blip; it must be clip"):
        evaluate(config, run)


def test_a_file_of_prompts_is_scored_beside_its_images(trained: tuple[RunConfig, Run], tmp_path: Path) -> None:
    base, run = trained
    file = tmp_path / "spatial_val.txt"
    file.write_text("a red apple on the left of a book\n\na green vase\n")
    config = _evaluation(
        base,
        prompt_file=file,
        blip_vqa_weights=save_blip_vqa(tmp_path / "blip"),
        detector_weights=save_owlvit(tmp_path / "owl"),
        num_samples=5,
    )
    result = _result(config, run)
    assert {"attribute_binding", "spatial_relations", "seconds_per_image"} <= result["metrics"].keys()
    assert "fd_efflite0" not in result["metrics"] and result["protocol"]["reference"] == "none: captions alone"
    assert "2 captions of spatial_val.txt" in result["protocol"]["prompts"]
    assert [result["protocol"][key]["images"] for key in ("attribute_binding", "spatial_relations")] == [5, 3]
    with np.load(run.evaluation(evaluation_id(config)).samples_path) as samples:
        assert samples["captions"].tolist()[:3] == ["a red apple on the left of a book", "a green vase"] * 1 + [
            "a red apple on the left of a book"
        ]


def test_the_prompts_are_part_of_the_identity_and_their_place_is_not(
    trained: tuple[RunConfig, Run], tmp_path: Path
) -> None:
    base, _ = trained
    (tmp_path / "elsewhere").mkdir()
    files = [tmp_path / "a.txt", tmp_path / "elsewhere" / "b.txt", tmp_path / "c.txt"]
    for file, text in zip(files, ("a book\n", "a book\n", "a vase\n"), strict=True):
        file.write_text(text)
    ids = [evaluation_id(_evaluation(base, prompt_file=file)) for file in files]
    assert ids[0] == ids[1] != ids[2]
    files[0].write_bytes(codecs.BOM_UTF8 + b"a book\r\n\r\na vase")
    assert read_prompts(files[0]) == ["a book", "a vase"]
    files[0].write_text("\n \n")
    with pytest.raises(UserError, match="holds no caption"):
        evaluation_conditions(_evaluation(base, prompt_file=files[0]))
    with pytest.raises(UserError, match=r"evaluation\.prompt_file leaves no real images"):
        _evaluation(base, prompt_file=files[1], dataset="coco")
    with pytest.raises(UserError, match=r"evaluation\.prompt_file=FILE"):
        _evaluation(base, prompt_file=tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="needs a run on captions"):
        load_config("dimba/demo-class", [f"evaluation.prompt_file={files[1]}"])
