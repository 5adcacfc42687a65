"""ImageNet's folders with strange ones among them, shards left beside them, and other tables than Kaggle's."""

import logging

import pytest

from datamodules.sources.open import open_source
from tests.datamodules.collections import annotated_shard, class_tree, encoded, picture, read_all


@pytest.mark.parametrize("stray", ["@eaDir", "__MACOSX", "lost+found", "n0144076"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_that_is_no_synset_shifts_no_labels(tmp_path, stray, split):
    for place in ("train", "val"):
        class_tree(tmp_path / place, range(6))
    (tmp_path / "train" / stray).mkdir()
    with pytest.raises(ValueError, match=f"has the subfolder '{stray.replace('+', '.')}', which is no synset"):
        open_source("imagenet", tmp_path, split)


def test_strange_folders_without_training_images(tmp_path):
    class_tree(tmp_path / "val", range(6), ("cat", "dog", "owl"))
    with pytest.raises(ValueError, match=r"has the subfolder 'cat', which is no synset"):
        open_source("imagenet", tmp_path, "val")


def test_another_number_of_synsets_is_a_warning(tmp_path, caplog):
    class_tree(tmp_path / "train", range(6))
    with caplog.at_level(logging.WARNING):
        assert len(open_source("imagenet", tmp_path, "train").class_names) == 3
    assert "3 folders of synsets, ImageNet-1k 1000: a run on it has 3 classes" in caplog.text


def test_class_folders_come_before_a_tar_that_was_left_there(tmp_path):
    annotated_shard(tmp_path / "train/ILSVRC2012_img_train.tar", [{"label": 5}])
    assert read_all(open_source("imagenet", tmp_path, "train"))[1] == {"ILSVRC2012_img_train/0": 5}
    class_tree(tmp_path / "train", range(6))
    assert len(read_all(open_source("imagenet", tmp_path, "train"))[1]) == 6


@pytest.mark.parametrize(
    "content", [b"image,label\nx,y", b"ImageId,PredictionString\nx,", b"ImageId,PredictionString\nx", b"\xff\xfe\n"]
)
def test_another_table_than_that_of_kaggle(tmp_path, content):
    class_tree(tmp_path / "train", range(3))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "x.JPEG").write_bytes(encoded(picture(1)))
    (tmp_path / "LOC_val_solution.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"LOC_val_solution\.csv is no table of ImageId,PredictionString\.$"):
        open_source("imagenet", tmp_path, "val")
