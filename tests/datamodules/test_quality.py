"""Quality tuning's choice of images: scores of pixels, and the best share of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.data import load_emoji
from datamodules.emoji.datamodule import EmojiDataModule
from datamodules.quality import SCORES, best, colourfulness, edge_density
from datamodules.store_config import CC3MConfig


def test_scores_order_images_as_an_eye_would() -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    images[1] = 128  # grey: no colour, no edge
    images[2, :, ::2, 0] = 255  # red stripes
    for score in (colourfulness, edge_density):
        flat, grey, stripes = score(images)
        assert flat == grey == 0 < stripes
    assert edge_density(images)[2] == pytest.approx(85.0)


def test_best_share_is_sorted_and_never_empty() -> None:
    scores = np.array([3.0, 1.0, 3.0, 2.0])
    assert best(scores, 0.5).tolist() == [0, 2]
    assert best(scores, 0.01).tolist() == [0]
    assert best(scores, 1.0).tolist() == [0, 1, 2, 3]
    assert best(np.array([0, 200, 1], np.uint8), 0.5).tolist() == [1, 2]


@pytest.mark.parametrize("score", SCORES)
def test_emoji_of_the_best_share(score: str) -> None:
    config = EmojiConfig(styles=["twemoji"], score=score, best_share=0.25)
    module = EmojiDataModule(config, batch_size=64)
    module.setup()
    for split in ("train", "val"):
        data = load_emoji(["twemoji"], split)
        values, kept = SCORES[score](data.images), module._index(split)
        assert len(kept) == -(-len(data) // 4)
        assert values[kept].min() >= np.delete(values, kept).max()
    config.subset = 10
    assert set(module._index("train")) <= set(best(SCORES[score](load_emoji(["twemoji"], "train").images), 0.25))
    assert len(module._index("train")) == 10


def test_a_share_must_be_one() -> None:
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="best_share"):
            EmojiConfig(best_share=share)


def test_stores_need_scores(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "meta.json").write_text("{}")
    config = CC3MConfig(root=str(tmp_path), condition="caption", best_share=0.5)
    with pytest.raises(FileNotFoundError, match="scores.npy"):
        config.resolve()
    for split in ("train", "val"):
        np.save(tmp_path / split / "scores.npy", np.arange(3.0))
    config.resolve()
    before = config.fingerprint
    np.save(tmp_path / "train" / "scores.npy", np.arange(3.0)[::-1])
    config.resolve()
    assert config.fingerprint != before
