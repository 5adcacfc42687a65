"""Every source layout in miniature: read back, images, labels and captions still belong together."""

import json

import pytest

from datamodules.sources.open import open_divided, open_source
from datamodules.store import TokenStore
from tests.datamodules.collections import (
    SYNSETS,
    caption,
    class_tree,
    coco,
    encoded,
    img2dataset,
    numbers_of,
    picture,
    run,
    tar_shard,
)

NUMBERS = range(1, 12)


def stored(out, split="train"):
    """{image number: (label, captions, key)} of a store."""
    store = TokenStore(out / split, verify=True)
    rows = {}
    for i, number in enumerate(numbers_of(store.codes)):
        captions = [store.caption(i, which) for which in range(store.caption_count(i))]
        rows[number] = (int(store.labels[i]), captions, store.key(i))
    return rows


def check_labels(rows, numbers=NUMBERS):
    assert sorted(rows) == sorted(numbers)
    for number, (label, captions, _) in rows.items():
        assert label == number % 3 and captions == []


def check_captions(rows, numbers=NUMBERS):
    assert sorted(rows) == sorted(numbers)
    for number, (label, captions, _) in rows.items():
        assert label == 0 and captions == [caption(number)]


# --- ImageNet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beneath", ["", "ILSVRC/Data/CLS-LOC"])
def test_class_folders(tmp_path, beneath):
    class_tree(tmp_path / beneath / "train", NUMBERS)
    class_tree(tmp_path / beneath / "val", range(20, 22))  # lacks a class: labels must not move up
    run("imagenet", tmp_path, tmp_path / "out")
    run("imagenet", tmp_path, tmp_path / "out", "val")
    check_labels(stored(tmp_path / "out"))
    check_labels(stored(tmp_path / "out", "val"), range(20, 22))
    assert TokenStore(tmp_path / "out/val").meta.source["classes"] == list(SYNSETS)


def flat_val(tmp_path, numbers=NUMBERS):
    class_tree(tmp_path / "train", range(3))
    (tmp_path / "val").mkdir()
    for position, number in enumerate(numbers, 1):
        (tmp_path / f"val/ILSVRC2012_val_{position:08d}.JPEG").write_bytes(encoded(picture(number), "PNG"))


def test_ground_truth_of_synsets(tmp_path):
    flat_val(tmp_path)
    lines = "\n".join(SYNSETS[number % 3] for number in NUMBERS)
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    run("imagenet", tmp_path, tmp_path / "out", "val")
    check_labels(stored(tmp_path / "out", "val"))


def test_ground_truth_of_the_kaggle_table(tmp_path):
    flat_val(tmp_path)
    rows = [f"ILSVRC2012_val_{i:08d},{SYNSETS[n % 3]} 1 2 3 4" for i, n in enumerate(NUMBERS, 1)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))
    run("imagenet", tmp_path, tmp_path / "out", "val")
    check_labels(stored(tmp_path / "out", "val"))


def test_ground_truth_of_the_development_kit_is_translated(tmp_path):
    """Its numbers are not in the order of the synsets."""
    import numpy as np
    from scipy.io import savemat

    flat_val(tmp_path)
    kit = {2: SYNSETS[0], 1: SYNSETS[1], 3: SYNSETS[2]}
    numbers = {synset: number for number, synset in kit.items()}
    (tmp_path / "data").mkdir()
    truth = tmp_path / "data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("\n".join(str(numbers[SYNSETS[n % 3]]) for n in NUMBERS))
    with pytest.raises(ValueError, match=r"put the kit's meta\.mat beside it"):
        run("imagenet", tmp_path, tmp_path / "out", "val")
    for damage in (b"", b"MATLAB 5.0 MAT-file, and no more", b"\x89HDF\r\n\x1a\n" + b"\0" * 600):
        (tmp_path / "data/meta.mat").write_bytes(damage)
        with pytest.raises(ValueError, match=r"meta\.mat is damaged"):
            run("imagenet", tmp_path, tmp_path / "out", "val")
    table = np.array(list(kit.items()), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(tmp_path / "data/meta.mat", {"synsets": table})
    run("imagenet", tmp_path, tmp_path / "out", "val")
    check_labels(stored(tmp_path / "out", "val"))


def test_what_is_missing_is_said_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="source folder"):
        open_source("imagenet", tmp_path / "absent", "train")
    with pytest.raises(ValueError, match="No train images"):
        open_source("imagenet", tmp_path, "train")
    flat_val(tmp_path)
    with pytest.raises(ValueError, match="labels file is not found: expected imagenet_2012_validation_synset_labels"):
        open_source("imagenet", tmp_path, "val")
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text(SYNSETS[0])
    with pytest.raises(ValueError, match="1 labels but .* 11 images"):
        open_source("imagenet", tmp_path, "val")
    (tmp_path / "imagenet_2012_validation_synset_labels.txt").write_text("n09999999\n" * 11)
    with pytest.raises(ValueError, match="n09999999, which the training images do not have"):
        open_source("imagenet", tmp_path, "val")
    for name, folder in (("cc3m", "No train part of CC3M"), ("coco", "No captions for train")):
        with pytest.raises(ValueError, match=folder):
            open_source(name, tmp_path / "train", "train")
    with pytest.raises(ValueError, match="Unknown data set"):
        open_source("laion", tmp_path, "train")


@pytest.mark.parametrize("column", ["label", "caption"])
def test_parquet(tmp_path, column):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for file, numbers in enumerate((range(1, 6), range(6, 12))):
        images = [{"bytes": encoded(picture(n)), "path": f"{n}.png"} for n in numbers]
        values = [n % 3 if column == "label" else caption(n) for n in numbers]
        (tmp_path / "data").mkdir(exist_ok=True)
        table = pa.table({"image": images, column: values})
        parquet.write_table(table, tmp_path / f"data/train-0000{file}-of-00002.parquet", row_group_size=3)
    run("imagenet" if column == "label" else "cc3m", tmp_path, tmp_path / "out")
    (check_labels if column == "label" else check_captions)(stored(tmp_path / "out"))
    (tmp_path / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="damaged or no parquet"):
        open_source("cc3m", tmp_path, "train")


# --- captions ---------------------------------------------------------------------------------------------------------


def test_img2dataset_shards(tmp_path):
    tar_shard(tmp_path / "00000.tar", [member for n in range(1, 7) for member in img2dataset(n)])
    by_kind = [member for n in range(7, 12) for member in img2dataset(n)]
    by_kind.sort(key=lambda member: member[0].rpartition(".")[2])  # all .jpg, all .json, all .txt
    tar_shard(tmp_path / "00001.tar", by_kind)
    (tmp_path / "00000_stats.json").write_text("{}")
    run("cc3m", tmp_path, tmp_path / "out")
    check_captions(stored(tmp_path / "out"))


def test_shards_with_classes(tmp_path):
    members = [
        (f"{n}.{kind}", data)
        for n in NUMBERS
        for kind, data in (("png", encoded(picture(n))), ("cls", b"%d" % (n % 3)))
    ]
    tar_shard(tmp_path / "train-000.tar", members)
    with pytest.raises(ValueError, match="--classes"):
        open_source("folder", tmp_path, "train")
    run("folder", tmp_path, tmp_path / "out", classes=3)
    check_labels(stored(tmp_path / "out"))


@pytest.mark.parametrize("divide", [False, True])
def test_a_number_of_classes_is_for_shards_with_labels_alone(tmp_path, divide):
    class_tree(tmp_path / "images", NUMBERS)
    with pytest.raises(ValueError, match="--classes is for tar shards with .cls files; .*images has none"):
        run("folder", tmp_path / "images", tmp_path / "out", classes=77, divide=divide)
    assert not (tmp_path / "out").exists()


def test_broken_shards_lose_images_not_their_order(tmp_path):
    """Duplicate keys, images without text, text without image, a shard that is cut off."""
    members = [m for n in range(1, 9) for m in img2dataset(n)]
    members += img2dataset(3)  # the key 3 again
    members = [m for m in members if m[0] not in ("000000005.txt", "000000005.json", "000000006.jpg")]
    tar_shard(tmp_path / "00000.tar", members)
    whole = tar_shard(tmp_path / "00001.tar", [m for n in (9, 10, 11) for m in img2dataset(n)])
    whole.write_bytes(whole.read_bytes()[: 512 * 13 + 100])
    summary = run("cc3m", tmp_path, tmp_path / "out")
    rows = stored(tmp_path / "out")
    check_captions(rows, [1, 2, 4, 7, 8, *[n for n in (9, 10, 11) if n in rows]])
    assert 9 in rows and 11 not in rows
    report = dict(json.loads((tmp_path / "out/train/report.json").read_text())["refused"])
    assert "duplicate key" in report["00000/000000003"]
    assert report["00000/000000005"] == "no caption" and report["00000/000000006"] == "no image under this name"
    assert any("damaged" in reason or "cut off" in reason for reason in report.values())
    assert sum(summary.refused.values()) == len(report)


def test_cc3m_list_beside_downloads(tmp_path):
    lines = [f"{caption(n)}\thttp://example.org/{n}" for n in range(12)]
    (tmp_path / "Train_GCC-training.tsv").write_text("\n".join(lines))
    (tmp_path / "train").mkdir()
    for number in NUMBERS:
        if number != 4:  # a dead link
            name = f"{number:07d}.jpg" if number % 2 else f"{number}.png"
            (tmp_path / "train" / name).write_bytes(encoded(picture(number)))
    summary = run("cc3m", tmp_path, tmp_path / "out")
    check_captions(stored(tmp_path / "out"), [n for n in NUMBERS if n != 4])
    assert sum(summary.refused.values()) == 2  # lines 0 and 4


def test_a_line_of_a_list_is_a_line_whatever_is_in_it(tmp_path):
    """Blank lines and the odd line break inside a caption must not shift the captions that follow."""
    lines = [f"{caption(n)}\thttp://example.org/{n}" for n in range(12)]
    lines[0], lines[2], lines[4] = "", "\r", f"{caption(4)}\r\u2028 and more\thttp://example.org/4"
    (tmp_path / "Train_GCC-training.tsv").write_bytes("\n".join([*lines, "", ""]).encode())
    (tmp_path / "train").mkdir()
    for number in NUMBERS:
        (tmp_path / "train" / f"{number}.png").write_bytes(encoded(picture(number)))
    summary = run("cc3m", tmp_path, tmp_path / "out")
    rows = stored(tmp_path / "out")
    assert rows.pop(4)[1] == [f"{caption(4)} and more"]
    check_captions(rows, [n for n in NUMBERS if n not in (2, 4)])
    assert sum(summary.refused.values()) == 2  # lines 0 and 2


def test_captions_of_a_json_list_may_hold_any_character(tmp_path):
    lines = [json.dumps({"file_name": f"{n}.png", "text": f"a\u2028b\u0085c {n}"}, ensure_ascii=False) for n in (1, 2)]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    source = open_source("folder", tmp_path, "train")
    assert list(source.files) == ["1.png", "2.png"] and source.captions[1] == ("a\u2028b\u0085c 2",)


def test_parquet_labels_that_are_words(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": [encoded(picture(1))], "label": ["cat"]})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(ValueError, match="column label are of type string; they must be whole numbers"):
        open_source("folder", tmp_path, "train")


def test_list_with_a_header(tmp_path):
    (tmp_path / "images").mkdir()
    for number in NUMBERS:
        (tmp_path / f"images/{number}.png").write_bytes(encoded(picture(number)))
    rows = [f'images/{n}.png,"{caption(n)}"' for n in [*NUMBERS, 2]] + ["./images//3.png,again"]
    (tmp_path / "train.csv").write_text("\n".join(["filepath,title", *rows]))
    assert run("cc3m", tmp_path, tmp_path / "out").refused == {"listed twice": 2}  # by one name or another
    check_captions(stored(tmp_path / "out"))


def test_coco(tmp_path):
    source = coco(tmp_path / "coco", NUMBERS)
    (source / "val2014" / f"COCO_val2014_{1000 - 5:012d}.jpg").unlink()
    run("coco", source, tmp_path / "out", "val")
    rows = stored(tmp_path / "out", "val")
    assert sorted(rows) == [n for n in NUMBERS if n != 5]
    for number, (_, captions, key) in rows.items():
        assert captions == [f"{caption(number)} no {k}" for k in range(5)] and str(1000 - number) in key
    (source / "annotations/captions_val2014.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged or no COCO caption file"):
        open_source("coco", source, "val")


@pytest.mark.parametrize("listed", [False, True])
def test_captioned_folder(tmp_path, listed):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in NUMBERS:
        (folder / f"{number}.png").write_bytes(encoded(picture(number)))
        if not listed:
            (folder / f"{number}.txt").write_text(caption(number))
    if listed:
        lines = [json.dumps({"file_name": f"{n}.png", "text": caption(n)}) for n in NUMBERS]
        lines += [json.dumps({"file_name": f"./{n}.png", "text": "again"}) for n in NUMBERS]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    refused = run("folder", folder, tmp_path / "out").refused
    assert refused == ({"listed twice": len(NUMBERS)} if listed else {})
    check_captions(stored(tmp_path / "out"))


def test_a_split_that_is_not_there(tmp_path):
    class_tree(tmp_path / "train", NUMBERS)
    with pytest.raises(
        ValueError, match="No split val .*expected the folder val or validation or valid; there is train"
    ):
        open_source("folder", tmp_path, "val")
    class_tree(tmp_path / "validation", NUMBERS, ("n01440764", "n01443537", "n09999999"))
    with pytest.raises(ValueError, match="n09999999, which is none of the 3 classes"):
        open_source("folder", tmp_path, "val")


def test_a_folder_without_splits_is_divided_by_names_alone(tmp_path):
    class_tree(tmp_path / "images", range(1, 40))
    train, val = (open_divided(tmp_path / "images", split) for split in ("train", "val"))
    assert not set(train.files) & set(val.files) and len(train.files) + len(val.files) == 39
    assert train.class_names == val.class_names and set(val.labels) == set(train.labels) == {0, 1, 2}
    assert [val.labels.count(label) for label in (0, 1, 2)] == [1, 1, 1]
    assert all(file.startswith(val.class_names[label]) for file, label in zip(val.files, val.labels, strict=True))
    assert open_divided(tmp_path / "images", "val").fingerprint == val.fingerprint != train.fingerprint
    with pytest.raises(ValueError, match="--split train takes all, and ablate tokenize --divide makes both"):
        open_source("folder", tmp_path / "images", "val")
    class_tree(tmp_path / "train", NUMBERS)
    with pytest.raises(ValueError, match="is for a plain folder of images; .* has the folder train"):
        open_divided(tmp_path, "val")
    (tmp_path / "lone" / "cat").mkdir(parents=True)
    (tmp_path / "lone" / "cat" / "1.png").write_bytes(encoded(picture(1)))
    with pytest.raises(ValueError, match="cat has one image"):
        open_divided(tmp_path / "lone", "train")
