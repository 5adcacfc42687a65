"""Folders of images that hold more than images, or other folders than expected: labels and captions stay right."""

import codecs

import pytest

from datamodules.sources.open import open_source
from datamodules.store import TokenStore
from tests.datamodules.collections import class_tree, encoded, picture, run, tar_shard


@pytest.mark.parametrize("in_shards", [False, True])
def test_marks_at_the_start_of_a_text_file_are_no_part_of_the_caption(tmp_path, in_shards):
    texts = {1: codecs.BOM_UTF8 + b"caf\xc3\xa9\r\n", 2: "café".encode("utf-16"), 3: b"caf\xc3\xa9"}
    texts[4] = codecs.BOM_UTF16_BE + "café".encode("utf-16-be")
    members = [
        (f"{n}.{end}", data) for n, text in texts.items() for end, data in (("png", encoded(picture(n))), ("txt", text))
    ]
    if in_shards:
        tar_shard(tmp_path / "in/0.tar", members)
    else:
        (tmp_path / "in").mkdir()
        for name, data in members:
            (tmp_path / "in" / name).write_bytes(data)
    summary = run("folder", tmp_path / "in", tmp_path / "out")
    assert summary is not None and not summary.notes
    assert TokenStore(tmp_path / "out/train").captions()[:] == ["café"] * 4


def test_a_subfolder_without_an_image_is_no_class(tmp_path):
    """It would shift the labels behind it, and samples would be drawn of it."""
    class_tree(tmp_path / "train", range(6), ("a", "b", "c"))
    class_tree(tmp_path / "val", (0, 2), ("a", "b", "c"))
    (tmp_path / "val/b").mkdir()
    assert len(open_source("folder", tmp_path, "val").files) == 2  # in a split of its own that is no harm
    (tmp_path / "train/__MACOSX").mkdir()
    (tmp_path / "train/lists").mkdir()
    (tmp_path / "train/lists/all.csv").write_text("a")
    message = r"train has the subfolder __MACOSX \(and 1 more like it\) without an image, .*; remove it"
    with pytest.raises(ValueError, match=message):
        open_source("folder", tmp_path, "train")


def test_hidden_folders_within_a_class_are_left_out(tmp_path):
    class_tree(tmp_path, range(6), ("a", "b", "c"))
    class_tree(tmp_path / "a/.ipynb_checkpoints", (7,), ("x", "x", "x"))
    assert len(open_source("folder", tmp_path, "train").files) == 6


def test_a_split_that_is_not_there_is_answered_with_the_way_out(tmp_path):
    for split in ("train", "test"):
        class_tree(tmp_path / "splits" / split, range(6))
        class_tree(tmp_path / "classes", range(6), ("boat", split, "car"))
    with pytest.raises(ValueError, match=r"there is train, test \(--source \S*splits/train --divide holds a part"):
        open_source("folder", tmp_path / "splits", "val")
    with pytest.raises(ValueError, match=r"\(if train is a class, as boat is, put the folders of all classes into"):
        open_source("folder", tmp_path / "classes", "val")
