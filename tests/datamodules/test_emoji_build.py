"""Packing emoji out of package folders, on a miniature of each package."""

import json

import numpy as np
import pytest
from PIL import Image

from datamodules.emoji.build import caption, concept_id, main, render
from datamodules.emoji.data import load_emoji
from datamodules.emoji.labels import EMOJI_FILE, concept_family


def entry(unified, name, short_names, category, order):
    return {"unified": unified, "name": name, "short_names": short_names, "category": category, "sort_order": order}


ENTRIES = [
    entry("0023-FE0F-20E3", "HASH KEY", ["hash"], "Symbols", 3),
    entry("1F600", "GRINNING FACE", ["grinning", "grinning_face"], "Smileys & Emotion", 1),
    entry("1F436", "DOG FACE", ["dog"], "Animals & Nature", 2),
    entry("1F3FB", "SKIN TONE", ["skin"], "Component", 4),
    entry("1F4A9", "NOT DRAWN BY NOTO", ["poop"], "Smileys & Emotion", 5),
]
COLOURS = {"23-20e3": "blue", "1f600": "yellow", "1f436": "brown", "1f3fb": "pink", "1f4a9": "black"}


@pytest.fixture
def packages(tmp_path):
    twemoji, noto = tmp_path / "tw/assets/72x72", tmp_path / "package/img/google/64"
    for folder, size, drawn in ((twemoji, 72, list(COLOURS)), (noto, 64, list(COLOURS)[:-1])):
        folder.mkdir(parents=True)
        for concept in drawn:
            name = {"23-20e3": "0023-fe0f-20e3" if folder == noto else "23-20e3"}.get(concept, concept)
            picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
            picture.paste(COLOURS[concept], (size // 4, size // 4, 3 * size // 4, 3 * size // 4))
            picture.save(folder / f"{name}.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "emoji.json").write_text(json.dumps(ENTRIES))
    return ["--twemoji", str(tmp_path / "tw"), "--emoji-data", str(data), "--noto", str(tmp_path / "package")]


def test_build(packages, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main([*packages, "--out", str(out)]) == 0
    assert "3 concepts" in capsys.readouterr().out
    data = load_emoji(split="all", path=out)
    assert data.concepts == ["1f600", "1f436", "23-20e3"] * 2  # Unicode order, no component, drawn in both styles
    assert data.captions[:3] == ["grinning face, grinning", "dog face, dog", "hash key, hash"]
    assert data.labels.tolist() == [0, 2, 7] * 2
    for style in (0, 3):
        assert data.images[style, 16, 16].tolist() == [255, 255, 0]
        assert data.images[style, 0, 0].tolist() == [255, 255, 255]

    again = tmp_path / "again.npz"
    main([*packages, "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_missing_packages_are_named(packages, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    packages[-1] = str(tmp_path / "empty")
    assert main([*packages, "--out", str(tmp_path / "out.npz")]) == 2
    assert "noto package" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_transparent_pixels_lend_no_colour(tmp_path):
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    picture[:, 32:] = (255, 0, 0, 255)  # left half: black, but fully transparent
    Image.fromarray(picture).save(tmp_path / "half.png")
    image = render(tmp_path / "half.png", 32)
    assert image[:, :8].min() == 255 and image[16, 24].tolist() == [255, 0, 0]


def test_names():
    assert concept_id("0023-FE0F-20E3") == "23-20e3"
    assert concept_family("1f469-200d-1f33e") == concept_family("1f468-200d-1f33e") == "1f9d1-200d-1f33e"
    assert concept_family("1f3c3-200d-2640-200d-27a1") == "1f3c3"
    assert concept_family("1f468-200d-1f469-200d-1f466") == "1f9d1-200d-1f9d1-200d-1f466"
    assert concept_family("2764-200d-1f525") == "2764-200d-1f525"
    assert caption(entry("1F354", None, ["hamburger", "burger-time"], "Food & Drink", 1)) == "hamburger, burger time"


def test_committed_file_is_small():
    assert EMOJI_FILE.stat().st_size < 5_000_000
