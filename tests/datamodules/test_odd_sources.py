"""Collections that lie on disk in unusual ways: labels and captions stay right, or one sentence says what is wrong."""

import codecs
import gzip
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources.coco import annotation_file
from datamodules.sources.folders import class_folders
from datamodules.sources.lists import list_file
from datamodules.sources.open import open_divided, open_source
from datamodules.sources.records import Record, Refused, texts_of
from datamodules.sources.tar import tar_files
from datamodules.store import TokenStore
from datamodules.tokenize.encode import Work
from tests.datamodules.collections import (
    SYNSETS,
    caption,
    class_tree,
    coco,
    encoded,
    img2dataset,
    picture,
    run,
    tar_shard,
)

NOT_UTF8 = os.fsdecode(b"gr\xf6\xdfe")


def read(source):
    """Everything in a source: ({key: captions}, {key: label}, {key: reason of refusal})."""
    found = [record for unit in range(len(source.units)) for record in source.read(unit)]
    records = [record for record in found if isinstance(record, Record)]
    refused = {record.key: record.reason for record in found if isinstance(record, Refused)}
    return {r.key: r.captions for r in records}, {r.key: r.label for r in records}, refused


def refusals(store):
    return dict(json.loads((store / "report.json").read_text(encoding="utf-8"))["refused"])


@pytest.mark.parametrize("words,kept", [(None, ()), ("a", ("a",)), (["a", None, "b"], ("a", "b")), ([], ())])
def test_captions_of_json_and_tables(words, kept):
    assert texts_of(words) == kept


@pytest.mark.parametrize("words", [3, float("nan"), {"en": "a"}, ["a", 3]])
def test_captions_that_are_no_text(words):
    with pytest.raises(ValueError, match="is of type .*, not a text"):
        texts_of(words)


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("caption", "url"), ("url", "caption"), ("URL", "TEXT", "similarity")])
def test_lines_of_a_numbered_list_count_behind_its_header(tmp_path, columns):
    place = next(i for i, name in enumerate(columns) if name != "url" and name != "URL")
    rows = [["http://example.org"] * len(columns) for _ in range(6)]
    for number, row in enumerate(rows):
        row[place] = caption(number)
    (tmp_path / "Train_GCC-training.tsv").write_text("\n".join("\t".join(row) for row in [columns, *rows]))
    class_tree(tmp_path / "t", range(6), ("", "", "")).rename(tmp_path / "train")
    (tmp_path / "train" / "004.png").unlink()
    captions, _, refused = read(open_source("cc3m", tmp_path, "train"))
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
    captions, _, refused = read(open_source("folder", tmp_path, "train"))
    assert captions == {"0.png": ("a",), "1.png": (), "3.png": ("b", "c")}
    assert refused == {"2.png": "annotation cannot be read (a caption is of type int, not a text)"}


# --- shards -----------------------------------------------------------------------------------------------------------


def shard(path, annotations):
    """A shard of one image for each, with that JSON beside it."""
    members = []
    for i, data in enumerate(annotations):
        members += [(f"{i}.png", encoded(picture(i))), (f"{i}.json", json.dumps(data).encode())]
    return tar_shard(path, members)


def test_odd_json_in_a_shard_is_refused_by_name(tmp_path):
    shard(tmp_path / "in/0.tar", [{"caption": ["a", None, "b"]}, {"caption": None}, {"caption": 3}, ["a"], 7, None])
    run("cc3m", tmp_path / "in", tmp_path / "out")
    store = TokenStore(tmp_path / "out/train", verify=True)
    assert len(store) == 1 and [store.caption(0, which) for which in range(2)] == ["a", "b"]
    reasons = refusals(tmp_path / "out/train")
    assert reasons["0/1"] == "no caption" and "is of type int, not a text" in reasons["0/2"]
    assert {key: reason.partition(" (")[0] for key, reason in reasons.items() if key > "0/2"} == {
        f"0/{i}": "annotation cannot be read" for i in (3, 4, 5)
    }


def test_shards_of_imagenet_are_always_labelled(tmp_path):
    """Also without .cls files: a shard without any label is refused image by image, not taken for captions."""
    shard(tmp_path / "train-0.tar", [{"label": 7}, {"label": None}, {}, {"label": "cat"}, {"label": 1000}])
    source = open_source("imagenet", tmp_path, "train")
    _, labels, refused = read(source)
    assert len(source.class_names) == 1000 and not source.captioned and labels == {"train-0/0": 7}
    reasons = [reason.removeprefix("annotation cannot be read ").strip("()") for reason in refused.values()]
    assert reasons[:2] == ["no label"] * 2 and "cat" in reasons[2] and reasons[3] == "label 1000 of 1000 classes"


def test_names_of_shards_are_compared_by_words(tmp_path):
    names = ("retrieval-00000", "latest_1", "constrained", "imagenet-val-0", "coco_val2014-00000", "test")
    for name in names:
        (tmp_path / f"{name}.tar").touch()
    assert {path.stem for path in tar_files(tmp_path, "train")} == {"retrieval-00000", "latest_1", "constrained"}


@pytest.mark.parametrize("name", ["train", "cc3m_train", "cc3m-training"])
def test_a_single_shard_goes_by_the_name_of_its_split(tmp_path, name):
    for shard_name in (name, "val", "coco_test"):
        (tmp_path / f"{shard_name}.tar").touch()
    found = {split: [path.stem for path in tar_files(tmp_path, split)] for split in ("train", "val", "test")}
    assert found == {"train": [name], "val": ["val"], "test": ["coco_test"]}
    (tmp_path / "train").mkdir()  # what the archive was unpacked to
    assert not tar_files(tmp_path, "train")


def test_an_archive_beside_the_class_folders_does_not_take_their_place(tmp_path):
    class_tree(tmp_path / "train", range(6))
    tar_shard(tmp_path / "backup.tar", [("old.png", encoded(picture(0)))])
    assert open_source("folder", tmp_path, "train").class_names == list(SYNSETS)


def whole_shard(folder):
    """The bytes of a shard of ten captioned images, and where each image begins."""
    members = [(f"{n}.{kind}", data) for n in range(10) for kind, data in (("png", encoded(picture(n))), ("txt", b"a"))]
    content = tar_shard(folder / "0.tar", members).read_bytes()
    return content, [content.index(f"{n}.png\0".encode()) for n in range(10)]


def overwritten(content, start, stop, value=b"\0"):
    return content[:start] + value * (stop - start) + content[stop:]


DAMAGE = {
    "cut between images": (lambda c, at: c[:at], "breaks off at byte"),
    "cut within a header": (lambda c, at: c[: at + 200], "breaks off at byte"),
    "cut within an image": (lambda c, at: c[: at + 520], "unexpected end of data"),
    "never filled in": (lambda c, at: overwritten(c, at, len(c)), "nothing but zeros from byte"),
    "a zeroed header": (lambda c, at: overwritten(c, at, at + 512), "more than zeros after the end"),
    "a garbled header": (lambda c, at: overwritten(c, at + 100, at + 160, b"\xff"), "no valid header at byte"),
    "two archives joined": (lambda c, at: c + c, "more than zeros after the end"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("compressed", [False, True])
def test_no_damage_to_a_shard_goes_unnoticed(tmp_path, kind, compressed):
    """`tarfile` itself ends in silence at whatever is no header."""
    damage, reason = DAMAGE[kind]
    content, starts = whole_shard(tmp_path)
    content = damage(content, starts[4])
    (tmp_path / "0.tar").write_bytes(gzip.compress(content) if compressed else content)
    captions, _, refused = read(open_source("cc3m", tmp_path, "train"))
    assert list(captions) == [f"0/{n}" for n in range(10 if kind == "two archives joined" else 4)]
    assert refused["0.tar"].startswith("the shard is damaged (") and reason in refused["0.tar"]
    with pytest.raises(ValueError, match=r"with --on-error skip, which leaves"):
        run("cc3m", tmp_path, tmp_path / "out", work=Work(on_error="stop"))


@pytest.mark.parametrize("kind", ["cut", "garbled", "wrong checksum"])
def test_damage_to_a_compressed_shard(tmp_path, kind):
    content = gzip.compress(whole_shard(tmp_path)[0])
    middle, end = len(content) // 2, len(content)
    damaged = {
        "cut": content[:middle],
        "garbled": overwritten(content, middle, middle + 50, b"\xff"),
        "wrong checksum": overwritten(content, end - 8, end),
    }
    (tmp_path / "0.tar").write_bytes(damaged[kind])
    _, _, refused = read(open_source("cc3m", tmp_path, "train"))
    assert refused["0.tar"].startswith("the shard is damaged (")


@pytest.mark.parametrize("zeros", [512, 1024, 10240 + 512])
def test_ends_that_writers_give_their_archives(tmp_path, zeros):
    content, _ = whole_shard(tmp_path)
    (tmp_path / "0.tar").write_bytes(content.rstrip(b"\0") + bytes(511) + bytes(zeros))  # the last text is one byte
    captions, _, refused = read(open_source("cc3m", tmp_path, "train"))
    assert len(captions) == 10 and not refused


def test_images_with_two_dots_in_their_names_do_not_vanish(tmp_path):
    members = [(name, encoded(picture(1))) for name in ("a.v1.png", "b.png", "b.mask.png", "._b.png")]
    tar_shard(tmp_path / "0.tar", [*members, ("a.v1.txt", b"a"), ("b.txt", b"b"), ("c.stats.json", b"{}")])
    captions, _, refused = read(open_source("cc3m", tmp_path, "train"))
    assert captions == {"0/b": ("b",)}
    assert refused == {"0/a": "ambiguous name: what follows its first dot is the ending, here .v1.png"}


def test_archives_within_an_archive_are_named(tmp_path):
    """As ImageNet's training images are given out."""
    inner = tar_shard(tmp_path / "n01440764.tar", img2dataset(1)).read_bytes()
    tar_shard(tmp_path / "in/ILSVRC2012_img_train.tar", [("n01440764.tar", inner)])
    for dataset in ("imagenet", "cc3m"):
        with pytest.raises(ValueError, match="n01440764: an archive within the archive; unpack the outer one"):
            run(dataset, tmp_path / "in", tmp_path / "out")


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
    assert TokenStore(tmp_path / "out/train").captions() == ["café"] * 4


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


def test_shards_without_a_single_image(tmp_path):
    tar_shard(tmp_path / "in/0.tar", [("statistics.json", b"{}")])
    with pytest.raises(ValueError, match=r"^No images of train were found in 0\.tar; name the right folder"):
        run("cc3m", tmp_path / "in", tmp_path / "out")


# --- ImageNet ---------------------------------------------------------------------------------------------------------


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
    shard(tmp_path / "train/ILSVRC2012_img_train.tar", [{"label": 5}])
    assert read(open_source("imagenet", tmp_path, "train"))[1] == {"ILSVRC2012_img_train/0": 5}
    class_tree(tmp_path / "train", range(6))
    assert len(read(open_source("imagenet", tmp_path, "train"))[1]) == 6


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


@pytest.mark.parametrize("column", ["label", "labels", "cls"])
def test_labels_of_parquet_files_go_by_several_names(tmp_path, column):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    captions = [["a", None], None, ["b"]]
    table = pyarrow.table({"image": [encoded(picture(n)) for n in range(3)], column: [2, 0, 1], "text": captions})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    found, labels, refused = read(open_source("imagenet", tmp_path, "train"))
    assert list(labels.values()) == [2, 0, 1] and list(found.values()) == [("a",), (), ("b",)] and not refused


def test_captions_of_parquet_files_that_are_no_text_and_no_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": [encoded(picture(1))], "text": [3]})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    captions, _, refused = read(open_source("cc3m", tmp_path, "train"))
    assert not captions and "is of type int" in refused["train-0.parquet/0/0"]
    with pytest.raises(ValueError, match=r"no label column \(label, labels, cls\) among them"):
        open_source("imagenet", tmp_path, "train")


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_damaged_row_group_loses_its_own_rows_only(tmp_path, column):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = np.random.default_rng(0).integers(
        0, 256, (12, 40), np.uint8
    )  # noise, so that pages are stored as they are
    table = pyarrow.table({"image": [row.tobytes() for row in values], "label": [n % 3 for n in range(12)]})
    path = tmp_path / "train-0.parquet"
    parquet.write_table(table, path, row_group_size=4, use_dictionary=False)
    chunk = parquet.ParquetFile(path).metadata.row_group(1).column(table.column_names.index(column))
    start, size = chunk.data_page_offset, chunk.total_compressed_size
    path.write_bytes(overwritten(path.read_bytes(), start, start + size, b"\xff"))
    source = open_source("imagenet", tmp_path, "train")
    _, labels, refused = read(source)
    assert list(labels.values()) == [n % 3 for n in (*range(4), *range(8, 12))] and len(source.class_names) == 3
    assert list(refused) == ["train-0.parquet, row group 1"]
    assert refused["train-0.parquet, row group 1"].startswith("damaged, its 4 rows are lost (")


# --- COCO -------------------------------------------------------------------------------------------------------------


def test_of_two_years_the_one_whose_images_are_there(tmp_path):
    """And only files of exactly that name."""
    source = coco(tmp_path / "coco", range(1, 4))
    annotations = source / "annotations"
    (annotations / "captions_val2014.json").rename(annotations / "captions_val2017.json")
    for other in ("captions_val2014.json", "captions_val2014_small.json"):
        (annotations / other).write_text("{}")
    (source / "val2014").rename(source / "val2017")
    assert annotation_file(source, "val") == annotations / "captions_val2017.json"
    assert len(read(open_source("coco", source, "val"))[0]) == 3
    (source / "images").mkdir()
    (source / "val2017").rename(source / "images/val2017")
    assert len(read(open_source("coco", source, "val"))[0]) == 3
    (source / "images").rename(source / "elsewhere")
    with pytest.raises(ValueError, match=r"No images for captions_val2014\.json in .* the folder val2014/"):
        open_source("coco", source, "val")
    for name in ("captions_val2014.json", "captions_val2017.json"):
        (annotations / name).unlink()
    with pytest.raises(ValueError, match="No captions for val"):
        open_source("coco", source, "val")


# --- characters -------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd_names(tmp_path):
    """FOLDER/CLASS/: two images, the name of one of which is not UTF-8."""
    folder = class_tree(tmp_path / "images", [1, 4])
    try:
        (folder / SYNSETS[1] / "004.png").rename(folder / SYNSETS[1] / f"{NOT_UTF8}.png")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    return folder


def test_images_whose_names_are_not_utf8_are_refused_by_name(odd_names, tmp_path):
    run("folder", odd_names, tmp_path / "out")
    key = f"{SYNSETS[1]}/{NOT_UTF8}.png"
    assert refusals(tmp_path / "out/train") == {ascii(key): "name that is not UTF-8"}
    assert len(TokenStore(tmp_path / "out/train", verify=True)) == 1
    assert {len(open_divided(odd_names, split).files) for split in ("train", "val")} == {1}


def test_what_a_source_refuses_is_named_in_utf8_too(tmp_path):
    members = [("1.png", encoded(picture(1))), ("1.txt", b"a"), (f"{NOT_UTF8}.txt", b"b")]
    tar_shard(tmp_path / "in/0.tar", members)
    run("cc3m", tmp_path / "in", tmp_path / "out")
    assert refusals(tmp_path / "out/train") == {ascii(f"0/{NOT_UTF8}"): "no image under this name"}


def test_shards_whose_names_are_not_utf8(odd_names, tmp_path):
    path = tar_shard(tmp_path / "in/0.tar", [("1.png", encoded(picture(1))), ("1.txt", b"a")])
    path.rename(path.with_name(f"{NOT_UTF8}.tar"))
    with pytest.raises(ValueError, match="None of the 1 images of train could be used .*name that is not UTF-8"):
        run("cc3m", tmp_path / "in", tmp_path / "out")


def test_a_class_whose_name_is_not_utf8_is_refused(odd_names):
    (odd_names / SYNSETS[1]).rename(odd_names / NOT_UTF8)
    with pytest.raises(ValueError, match="has the class .*, whose name is not UTF-8; rename that folder"):
        class_folders(odd_names)


LOCALE = """
import sys
from pathlib import Path
import numpy as np
from datamodules.sources.open import open_source
from datamodules.store import TokenStore, write_store
folder, word = Path(sys.argv[1]), "gr\\u00f6\\u00dfe"
for name, split in (("coco", "val"), ("folder", "train")):
    record, = open_source(name, folder / name, split).read(0)
    assert record.captions == (word,), ascii(record.captions)
settings = {"vocab_size": 2, "tokenizer": "", "source": {"classes": [word]}}
write_store(folder / "store", np.zeros((1, 1, 4), int), np.zeros(1, int), [word], **settings)
assert TokenStore(folder / "store", verify=True).meta.source["classes"] == [word]
"""


def test_captions_and_classes_are_utf8_whatever_the_locale(tmp_path):
    source = coco(tmp_path / "coco", [1], captions=1)
    path = source / "annotations/captions_val2014.json"
    path.write_text(path.read_text().replace(f"{caption(1)} no 0", "größe"), encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/1.png").write_bytes(encoded(picture(1)))
    (tmp_path / "folder/1.txt").write_text("größe", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", LOCALE, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
