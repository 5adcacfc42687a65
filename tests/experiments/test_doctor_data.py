"""ablate doctor FOLDER: what is there and what is missing, in words."""

import json

import pytest

from experiments.doctor_data import examine_data, guess_kind
from tests.datamodules.collections import Work, class_tree, coco, encoded, img2dataset, picture, run, tar_shard


def findings(folder):
    return {finding.part: finding for finding in examine_data(folder)}


def test_imagenet_without_validation_labels(tmp_path):
    class_tree(tmp_path / "train", range(6))
    (tmp_path / "val").mkdir()
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").write_bytes(encoded(picture(1)))
    found = findings(tmp_path)
    assert guess_kind(tmp_path) == "imagenet"
    assert (
        found["imagenet/val"].state == "broken" and "labels file is not found: expected" in found["imagenet/val"].found
    )
    assert "6 images, 3 classes; 1,281,167 images were expected" in found["imagenet/train"].found
    assert "imagenet/test" not in found


def test_imagenet_as_it_is_given_out_has_a_test_split_without_labels(tmp_path, ablate):
    for split in ("train", "val"):
        class_tree(tmp_path / split, range(6))
    (tmp_path / "test").mkdir()
    (tmp_path / "test/ILSVRC2012_test_00000001.JPEG").write_bytes(encoded(picture(1)))
    test = findings(tmp_path)["imagenet/test"]
    assert test.state == "optional" and "labels file is not found" in test.found and "nothing needs" in test.way_out
    assert ablate("doctor", tmp_path)[0] == 0


def test_other_layouts_are_recognised(tmp_path):
    coco(tmp_path / "coco", range(3))
    assert "3 images, captions" in findings(tmp_path / "coco")["coco/val"].found
    tar_shard(tmp_path / "cc3m/00000.tar", [member for n in range(3) for member in img2dataset(n)])
    assert findings(tmp_path / "cc3m")["cc3m/train"].found == "1 shards, captions"
    class_tree(tmp_path / "folder", range(3), ("a", "b", "c"))
    (tmp_path / "folder/a/000.png").write_bytes(b"")
    found = findings(tmp_path / "folder")["folder/train"]
    assert found.state == "optional" and "unusable: a/000.png: empty file" in found.found
    assert findings(tmp_path / "absent")["data folder"].state == "broken"
    (tmp_path / "empty" / "train").mkdir(parents=True)
    found = findings(tmp_path / "empty")
    assert found.keys() == {"data folder"} and "holds no files" in found["data folder"].found


def test_images_that_would_be_left_out_are_seen(tmp_path):
    tar_shard(tmp_path / "bare/0.tar", [("1.png", encoded(picture(1))), ("2.png", encoded(picture(2)))])
    found = findings(tmp_path / "bare")["cc3m/train"]
    assert found.state == "optional" and "unusable: 0/1: no caption and 1 more of the first 2" in found.found
    tar_shard(tmp_path / "none/0.tar", [("statistics.json", b"{}")])
    assert "no images in 0.tar" in findings(tmp_path / "none")["cc3m/train"].found
    class_tree(tmp_path / "broken", range(20), ("a", "a", "a"))
    for number in range(6):
        (tmp_path / f"broken/a/{number:03d}.png").write_bytes(b"")
    assert "empty file and 5 more of the first 8" in findings(tmp_path / "broken")["folder/train"].found


def test_stores_finished_and_not(tmp_path):
    source = class_tree(tmp_path / "images", range(1, 14))
    run("folder", source, tmp_path / "out", work=Work(shard=(0, 2)))
    found = findings(tmp_path / "out")["store train"]
    assert found.state == "broken" and "unfinished: 2 of 4 parts" in found.found
    run("folder", source, tmp_path / "out")
    found = findings(tmp_path / "out")
    assert found["store train"].state == "ok" and "13 images x 1 views of 4 tokens, toy" in found["store train"].found
    assert found["store val"].state == "broken"
    path = tmp_path / "out/train/labels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert "labels.npy has" in findings(tmp_path / "out")["store train"].found


def test_the_command(tmp_path, ablate):
    code, out, _ = ablate("doctor", tmp_path / "absent", "--json")
    assert code == 1 and json.loads(out)[0]["state"] == "broken"


def test_no_number_of_classes_is_made_up(tmp_path):
    """Shards with labels do not say how many classes there are; a thousand make an ImageNet, three do not."""
    members = [
        (f"{i}.{kind}", content)
        for i in range(3)
        for kind, content in (("png", encoded(picture(i))), ("cls", b"%d" % i))
    ]
    tar_shard(tmp_path / "shards" / "train" / "0.tar", members)
    shards = findings(tmp_path / "shards")["folder/train"]
    assert (shards.state, shards.found) == ("ok", "1 shards, labels")
    assert shards.way_out.startswith("ablate tokenize folder") and shards.way_out.endswith("--split train --classes N")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    for count, kind in ((3, "folder"), (1000, "imagenet")):
        rows = [{"image": {"bytes": encoded(picture(1)), "path": "x.png"}, "label": i} for i in range(count)]
        (tmp_path / kind).mkdir()
        write_table(pyarrow.Table.from_pylist(rows), tmp_path / kind / "train-0.parquet")
        found = findings(tmp_path / kind)[f"{kind}/train"]
        assert f"{count:,} classes" in found.found and found.way_out.endswith(
            f"{kind} --source {tmp_path / kind} --out STORES --split train"
        )
