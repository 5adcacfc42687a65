"""Tokenizing: images keep their labels, captions and keys, and every tokenizer and choice of views fits its store."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from datamodules.sources.folders import class_folders
from datamodules.store import TokenStore
from datamodules.tokenize.crops import Crops
from datamodules.tokenize.encode import Work
from datamodules.tokenize.job import Job, make_plan
from datamodules.tokenize.merge import merge
from lightning_modules.tokenizers.config import TOKENIZERS
from tests.datamodules.collections import (
    Toy,
    ToyLatents,
    caption,
    class_tree,
    content_of,
    encoded,
    numbers_of,
    picture,
    run,
)

BAD = {
    2: b"",
    5: encoded(picture(5), "JPEG")[:150],
    6: b"not an image",
    9: None,
}
"""Image number -> what its file holds instead; None: a name that leads nowhere."""


@pytest.fixture
def broken(tmp_path):
    """Captioned images, some of which cannot be used."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(1, 14):
        path = folder / f"{number:02d}.png"
        if BAD.get(number, b"x") is None:
            path.symlink_to(tmp_path / "nowhere")
        else:
            path.write_bytes(BAD.get(number, encoded(picture(number))))
        path.with_suffix(".txt").write_text("\x07 \n" if number == 11 else caption(number))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_out_takes_label_caption_and_key_along(broken, tmp_path, workers):
    """No shift between images and their captions, wherever the broken ones stand in units and batches."""
    summary = run("folder", broken, tmp_path / "out", work=Work(batch_size=3, workers=workers))
    store = TokenStore(tmp_path / "out/train", verify=True)
    numbers = numbers_of(store.codes)
    assert numbers == [n for n in range(1, 14) if n not in (*BAD, 11)]
    for i, number in enumerate(numbers):
        assert store.caption(i) == caption(number) and store.key(i) == f"{number:02d}.png"
    report = json.loads((tmp_path / "out/train/report.json").read_text())
    reasons = dict(report["refused"])
    assert {int(key[:2]) for key in reasons} == {*BAD, 11}
    assert reasons["02.png"] == "empty file" and reasons["09.png"] == "file not found"
    assert reasons["11.png"] == "empty caption" and reasons["06.png"] == "not an image"
    assert summary.images == report["images"] == 8 and sum(summary.refused.values()) == 5
    assert not (tmp_path / "out/train.parts").exists()


def test_stop_at_the_first_broken_image(broken, tmp_path):
    with pytest.raises(ValueError, match=r"02\.png: empty file.*--on-error skip"):
        run("folder", broken, tmp_path / "out", work=Work(on_error="stop"))
    assert not (tmp_path / "out/train").exists()


@pytest.mark.parametrize("toy", [Toy, ToyLatents])
def test_views_shards_and_batches_make_the_same_store(tmp_path, toy):
    source = class_tree(tmp_path / "images", range(1, 14))
    crops = {"crops": ("centre", "ten_1.1"), "flip": True, "toy": toy()}
    run("folder", source, tmp_path / "whole", **crops, work=Work(batch_size=24))
    for shard in (2, 0, 1):
        assert run("folder", source, tmp_path / "parts", **crops, work=Work(batch_size=24, shard=(shard, 3))) is None
        if shard == 2:
            with pytest.raises(ValueError, match="3 parts of train are not there yet"):
                merge(tmp_path / "parts", "train")
    merge(tmp_path / "parts", "train")
    assert content_of(tmp_path / "whole") == content_of(tmp_path / "parts")
    store = TokenStore(tmp_path / "whole/train", verify=True)
    assert store.meta.views == 12 and store.codes.dtype == (np.float16 if toy is ToyLatents else np.uint16)
    assert store.codes.shape == ((13, 12, 1, 2, 2) if toy is ToyLatents else (13, 12, 4))


class Wrong(Toy):
    def __init__(self, change):
        self.change = change

    def encode_uint8(self, images):
        return self.change(super().encode_uint8(images))


@pytest.mark.parametrize(
    "change,message", [(lambda t: t + 60, "outside its vocabulary"), (lambda t: t[:, :2], r"\(3, 4\) was expected")]
)
def test_a_tokenizer_that_does_not_fit(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run("folder", class_tree(tmp_path / "images", range(10, 14)), tmp_path / "out", toy=Wrong(change))


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2)])
def test_shards_are_counted_from_0(shard):
    with pytest.raises(ValueError, match="numbered 0 to 1 of 2"):
        Work(shard=shard)


@pytest.mark.parametrize("name", TOKENIZERS.names())
def test_every_tokenizer_says_what_it_makes(name, tmp_path):
    """Its configuration suffices to plan a store."""
    config = TOKENIZERS[name].config()
    source = class_folders(class_tree(tmp_path, [1, 2]))
    plan = make_plan(Job("folder", tmp_path, tmp_path), source, Crops(size=config.image_size), True, config)
    assert plan.codes_shape and all(plan.codes_shape) and plan.image_size == config.image_size
    assert plan.latents == (not plan.vocab_size)
    json.dumps(asdict(plan))
