"""Everything that goes wrong with image collections, through the command: counted, named, left out or refused.

Image number i is the grey level 4 i, and so is its token: whatever is left out, what remains must keep its own label.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from datamodules.sources.open import open_source
from datamodules.store import TokenStore
from datamodules.tokenize import progress
from datamodules.tokenize.progress import Counter
from experiments.commands import tokenize
from tests.conftest import Ablate
from tests.datamodules.collections import (
    Toy,
    ToyConfig,
    caption,
    class_tree,
    encoded,
    img2dataset,
    numbers_of,
    picture,
    tar_shard,
)


@pytest.fixture
def ablate(ablate: Ablate, monkeypatch: pytest.MonkeyPatch) -> Ablate:
    """The command with the toy tokenizer: words -> exit code, standard output, standard error."""
    monkeypatch.setattr(tokenize, "tokenizer_config", lambda name, settings: ToyConfig())
    monkeypatch.setattr(tokenize, "load_tokenizer", lambda config, device: Toy())

    def call(dataset: str, source: Path, out: Path, *words: str) -> tuple[int, str, str]:
        given = ("tokenize", dataset, "--source", source, "--out", out, "--workers", 0, *words, "--crops", "centre")
        code, said, error = ablate(*given)
        assert "Traceback" not in error
        return code, said, error

    return call


def rotated(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(number), "JPEG", exif=exif.tobytes())


def sixteen_bit(number: int) -> bytes:
    return encoded(Image.fromarray(np.full((18, 20), number * 4 * 257, np.uint16)))


UNUSUAL = {
    "CMYK": lambda number: encoded(picture(number, mode="CMYK"), "TIFF"),
    "16 bit": sixteen_bit,
    "palette": lambda number: encoded(picture(number).quantize(4)),
    "EXIF rotation applied": rotated,
    "grayscale": lambda number: encoded(picture(number, mode="L")),
    "wrong file extension": lambda number: encoded(picture(number)),
}
BROKEN = {
    "damaged image": encoded(picture(1), "JPEG")[:200],
    "empty file": b"",
    "not an image": b"<html>404</html>",
    "too few": encoded(picture(1, (3, 3))),
}


def test_images(ablate: Ablate, tmp_path: Path) -> None:
    """Good, unusual and broken ones in turns, in three classes."""
    folder, number, reasons = tmp_path / "images/train", 0, {}
    for make, content in zip([*UNUSUAL.values()] * 2, [*BROKEN.values()] * 3, strict=True):
        for image in (encoded(picture(number), "JPEG"), make(number + 1), content):
            path = folder / f"c{number % 3}" / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
            if image is content:
                reasons[f"c{number % 3}/{number:02d}.jpg"] = content
            number += 1
    (folder / "c0/98.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "c1/99.jpg").symlink_to(folder / "c1/99.jpg")
    code, out, _ = ablate("folder", tmp_path / "images", tmp_path / "out", "--batch-size", "5")
    assert code == 0 and "24 images" in out
    for kind in UNUSUAL:
        assert f"unusual: {10 if kind == 'wrong file extension' else 2} x {kind}" in out
    assert "left out: 3 x empty file" in out and "left out: 1 x file not found" in out
    store = TokenStore(tmp_path / "out/train", verify=True)
    for found, label, key in zip(numbers_of(store.codes), store.labels, map(store.key, range(24)), strict=True):
        assert key == f"c{label}/{found:02d}.jpg" and label == found % 3
    report = json.loads((tmp_path / "out/train/report.json").read_text())
    assert {key for key, _ in report["refused"]} == {*reasons, "c0/98.jpg", "c1/99.jpg"}


def test_captions_and_shards(ablate: Ablate, tmp_path: Path) -> None:
    def of(number: int, text: bytes) -> list[tuple[str, bytes]]:
        image, _, (name, _) = img2dataset(number)
        return [image, (name, text)]

    texts = {
        1: b"",
        2: b" \n\t",
        3: b"bell\x07 and \x1b[31mred",
        4: "😀 日本 𝒳".encode(),
        5: b"word " * 10_000,
        6: b"latin \xe9",
    }
    members = [member for number, text in texts.items() for member in of(number, text)]
    tar_shard(tmp_path / "tars/00000.tar", [*members, *of(7, b"first"), *of(8, b"eight"), *of(7, b"second")])
    tar_shard(tmp_path / "tars/00001.tar", [member for number in range(9, 12) for member in img2dataset(number)])
    cut = tmp_path / "tars/00002.tar"
    shutil.copy(tmp_path / "tars/00001.tar", cut)
    cut.write_bytes(cut.read_bytes()[:700])
    (tmp_path / "tars/00003.tar").write_bytes(b"")
    (tmp_path / "tars/00004.tar").write_bytes(b"garbage " * 400)
    code, out, _ = ablate("cc3m", tmp_path / "tars", tmp_path / "out")
    assert code == 0
    store = TokenStore(tmp_path / "out/train", verify=True)
    found = dict(zip(numbers_of(store.codes), map(store.caption, range(len(store))), strict=True))
    assert found == {
        3: "bell and [31mred",
        4: "😀 日本 𝒳",
        5: " ".join(["word"] * 10_000),
        6: "latin \ufffd",
        8: "eight",
        **{number: caption(number) for number in (9, 10, 11)},
    }
    reasons = dict(json.loads((tmp_path / "out/train/report.json").read_text())["refused"])
    assert reasons["00003.tar"] == "empty shard" and reasons["00004.tar"] == "not a tar archive"
    assert "duplicate key" in reasons["00000/000000007"]
    assert reasons["00000/000000001"] == reasons["00000/000000002"] == "empty caption"
    assert any(key.startswith("00002") for key in reasons)
    for kind in ("control characters", "invalid Unicode", "more than 1000 words"):
        assert f"unusual: 1 x caption with {kind}" in out or f"unusual: 1 x caption of {kind}" in out


def test_what_is_refused_as_a_whole_leaves_nothing(ablate: Ablate, tmp_path: Path) -> None:
    source = class_tree(tmp_path / "images", range(3))
    out = tmp_path / "out"
    code, _, err = ablate("folder", source, out, "--split", "val")
    assert code == 2 and "No split val" in err and not out.exists()
    images = sorted(source.rglob("*.png"))
    images[0].write_bytes(b"")
    code, _, err = ablate("folder", source, out, "--on-error", "stop")
    assert code == 2 and "empty file" in err and "--on-error skip" in err and not any(out.iterdir())
    for path in images:
        path.write_bytes(b"")
    code, _, err = ablate("folder", source, out)
    assert code == 2 and "None of the 3 images" in err and not any(out.iterdir())
    for number, path in enumerate(images):
        path.write_bytes(encoded(picture(number)))
    assert ablate("folder", source, out)[0] == 0  # once they are fixed, nothing stands in the way


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_runs_full(ablate: Ablate, small_disk: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datamodules.tokenize.merge.SPARE", 0)
    source, out = tmp_path / "images", small_disk / "out"
    for shard in range(6):
        tar_shard(source / f"{shard}.tar", [member for n in range(9) for member in img2dataset(shard * 9 + n + 1)])
    assert ablate("cc3m", source, tmp_path / "whole")[0] == 0
    filler = small_disk / "filler"
    filler.write_bytes(bytes(245 << 10))
    code, _, err = ablate("cc3m", source, out)
    assert code == 2 and re.search(r"Error: \S+/out/\S+: No space left on device\. Free some space; the same", err)
    parts = list(out.glob("train.parts/*.npz"))
    assert 0 < len(parts) < 6 and not (out / "train").exists() and not list(out.glob("**/.*.npz"))
    filler.unlink()
    assert ablate("cc3m", source, out)[0] == 0
    for path in (tmp_path / "whole/train").iterdir():
        assert path.read_bytes() == (out / "train" / path.name).read_bytes()


def test_time_left_is_told_with_and_without_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    known, shards = Counter("a", 10), Counter("b", None, 4)
    now[0] += 30
    for counter in (known, shards):
        assert "left" not in str(counter)
        counter.add(5, 1)
    shards.end_part()
    assert "5 of 10 images" in str(known) and "0:00:30 left, 1 refused" in str(known)
    known.add(7, 7)  # more than there are files, as of a list
    assert "12 of 12 images" in str(known)
    assert "5 images, 1 of 4 parts" in str(shards) and "0:01:30 left" in str(shards)


def test_images_without_classes_and_captions_are_refused_with_the_way_out(tmp_path):
    class_tree(tmp_path, range(1, 4))
    (tmp_path / "cover.png").write_bytes(encoded(picture(1)))
    with pytest.raises(ValueError, match=r"has a class or a caption: .* folder per class.*cover\.png lies beside them"):
        open_source("folder", tmp_path, "train")
