"""Names, captions and classes in other characters: UTF-8 whatever the locale, and what is not UTF-8 is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.sources.folders import class_folders
from datamodules.sources.open import open_divided
from datamodules.store import TokenStore
from tests.datamodules.collections import SYNSETS, caption, class_tree, coco, encoded, picture, refusals, run, tar_shard

NOT_UTF8 = os.fsdecode(b"gr\xf6\xdfe")


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
