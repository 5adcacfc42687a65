"""Lists of captions in unusual forms: each caption stays with its image, or one sentence says what is wrong."""

import json

import pytest

from datamodules.sources.coco import annotation_file
from datamodules.sources.lists import list_file
from datamodules.sources.open import open_source
from datamodules.sources.records import texts_of
from tests.datamodules.collections import SYNSETS, caption, class_tree, coco, read_all


@pytest.mark.parametrize("words,kept", [(None, ()), ("a", ("a",)), (["a", None, "b"], ("a", "b")), ([], ())])
def test_captions_of_json_and_tables(words, kept):
    assert texts_of(words) == kept


@pytest.mark.parametrize("words", [3, float("nan"), {"en": "a"}, ["a", 3]])
def test_captions_that_are_no_text(words):
    with pytest.raises(ValueError, match="is of type .*, not a text"):
        texts_of(words)


@pytest.mark.parametrize("columns", [("caption", "url"), ("url", "caption"), ("URL", "TEXT", "similarity")])
def test_lines_of_a_numbered_list_count_behind_its_header(tmp_path, columns):
    place = next(i for i, name in enumerate(columns) if name != "url" and name != "URL")
    rows = [["http://example.org"] * len(columns) for _ in range(6)]
    for number, row in enumerate(rows):
        row[place] = caption(number)
    (tmp_path / "Train_GCC-training.tsv").write_text("\n".join("\t".join(row) for row in [columns, *rows]))
    class_tree(tmp_path / "t", range(6), ("", "", "")).rename(tmp_path / "train")
    (tmp_path / "train" / "004.png").unlink()
    captions, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
    assert captions == {f"{n:03d}.png": (caption(n),) for n in range(6) if n != 4}
    assert refused == {"Train_GCC-training.tsv, line 6": "no image of its number in train/ (4)"}


def test_a_header_without_captions_is_not_understood(tmp_path):
    (tmp_path / "train.tsv").write_text("url\tid\nhttp://example.org\t1")
    with pytest.raises(ValueError, match=r"train\.tsv is not understood: expected a header"):
        open_source("cc3m", tmp_path, "train")


def test_a_list_is_known_by_the_first_word_of_its_name(tmp_path):
    for name in ("trainers.csv", "validity.tsv", "values.csv"):
        (tmp_path / name).touch()
    assert list_file(tmp_path, "val") is None and list_file(tmp_path, "train") is None
    for split, name in (("val", "Validation_GCC-1.1.0-Validation.tsv"), ("train", "train2014.csv")):
        (tmp_path / name).touch()
        assert list_file(tmp_path, split) == tmp_path / name


def test_a_table_of_classes_does_not_stand_in_the_way_of_class_folders(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("id,label\n1,cat")
    with pytest.raises(ValueError, match=r"train\.csv is not understood"):
        open_source("folder", tmp_path, "train")
    class_tree(tmp_path / "train", range(6))
    source = open_source("folder", tmp_path, "train")
    assert source.class_names == list(SYNSETS) and "The class folders in" in caplog.text
    with pytest.raises(ValueError, match=r"train\.csv is not understood"):
        open_source("cc3m", tmp_path, "train")


def test_captions_of_a_json_list_that_are_missing_or_no_text(tmp_path):
    lines = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(["a", None, 3, ["b", None, "c"]])]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    captions, _, refused = read_all(open_source("folder", tmp_path, "train"))
    assert captions == {"0.png": ("a",), "1.png": (), "3.png": ("b", "c")}
    assert refused == {"2.png": "annotation cannot be read (a caption is of type int, not a text)"}


def test_of_two_years_the_one_whose_images_are_there(tmp_path):
    """And only files of exactly that name."""
    source = coco(tmp_path / "coco", range(1, 4))
    annotations = source / "annotations"
    (annotations / "captions_val2014.json").rename(annotations / "captions_val2017.json")
    for other in ("captions_val2014.json", "captions_val2014_small.json"):
        (annotations / other).write_text("{}")
    (source / "val2014").rename(source / "val2017")
    assert annotation_file(source, "val") == annotations / "captions_val2017.json"
    assert len(read_all(open_source("coco", source, "val"))[0]) == 3
    (source / "images").mkdir()
    (source / "val2017").rename(source / "images/val2017")
    assert len(read_all(open_source("coco", source, "val"))[0]) == 3
    (source / "images").rename(source / "elsewhere")
    with pytest.raises(ValueError, match=r"No images for captions_val2014\.json in .* the folder val2014/"):
        open_source("coco", source, "val")
    for name in ("captions_val2014.json", "captions_val2017.json"):
        (annotations / name).unlink()
    with pytest.raises(ValueError, match="No captions for val"):
        open_source("coco", source, "val")
