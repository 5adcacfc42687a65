"""Tar shards that are damaged, or named and filled in unusual ways: no image is lost without a word."""

import gzip

import pytest

from datamodules.sources.open import open_source
from datamodules.sources.tar import tar_files
from datamodules.store import TokenStore
from datamodules.tokenize.encode import Work
from tests.datamodules.collections import (
    SYNSETS,
    annotated_shard,
    class_tree,
    encoded,
    img2dataset,
    overwritten,
    picture,
    read_all,
    refusals,
    run,
    tar_shard,
)


def test_odd_json_in_a_shard_is_refused_by_name(tmp_path):
    annotated_shard(
        tmp_path / "in/0.tar", [{"caption": ["a", None, "b"]}, {"caption": None}, {"caption": 3}, ["a"], 7, None]
    )
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
    annotated_shard(tmp_path / "train-0.tar", [{"label": 7}, {"label": None}, {}, {"label": "cat"}, {"label": 1000}])
    source = open_source("imagenet", tmp_path, "train")
    _, labels, refused = read_all(source)
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
    captions, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
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
    _, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
    assert refused["0.tar"].startswith("the shard is damaged (")


@pytest.mark.parametrize("zeros", [512, 1024, 10240 + 512])
def test_ends_that_writers_give_their_archives(tmp_path, zeros):
    content, _ = whole_shard(tmp_path)
    (tmp_path / "0.tar").write_bytes(content.rstrip(b"\0") + bytes(511) + bytes(zeros))  # the last text is one byte
    captions, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
    assert len(captions) == 10 and not refused


def test_images_with_two_dots_in_their_names_do_not_vanish(tmp_path):
    members = [(name, encoded(picture(1))) for name in ("a.v1.png", "b.png", "b.mask.png", "._b.png")]
    tar_shard(tmp_path / "0.tar", [*members, ("a.v1.txt", b"a"), ("b.txt", b"b"), ("c.stats.json", b"{}")])
    captions, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
    assert captions == {"0/b": ("b",)}
    assert refused == {"0/a": "ambiguous name: what follows its first dot is the ending, here .v1.png"}


def test_archives_within_an_archive_are_named(tmp_path):
    """As ImageNet's training images are given out."""
    inner = tar_shard(tmp_path / "n01440764.tar", img2dataset(1)).read_bytes()
    tar_shard(tmp_path / "in/ILSVRC2012_img_train.tar", [("n01440764.tar", inner)])
    for dataset in ("imagenet", "cc3m"):
        with pytest.raises(ValueError, match="n01440764: an archive within the archive; unpack the outer one"):
            run(dataset, tmp_path / "in", tmp_path / "out")


def test_shards_without_a_single_image(tmp_path):
    tar_shard(tmp_path / "in/0.tar", [("statistics.json", b"{}")])
    with pytest.raises(ValueError, match=r"^No images of train were found in 0\.tar; name the right folder"):
        run("cc3m", tmp_path / "in", tmp_path / "out")
