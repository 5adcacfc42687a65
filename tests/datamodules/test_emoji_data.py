"""The packed emoji file: counts, splits, errors."""

import numpy as np
import pytest

from datamodules.emoji.data import load_emoji
from datamodules.emoji.labels import CATEGORIES, EMOJI_FILE, STYLES

COUNTS = {
    "People & Body": 385,
    "Flags": 269,
    "Objects": 262,
    "Symbols": 223,
    "Travel & Places": 218,
    "Smileys & Emotion": 168,
    "Animals & Nature": 153,
    "Food & Drink": 135,
    "Activities": 85,
}


@pytest.fixture(scope="module")
def everything():
    return load_emoji(split="all")


def test_counts_per_category(everything):
    assert len(everything) == 2 * 1898
    for style in STYLES:
        of_style = np.array(everything.styles) == style
        counts = np.bincount(everything.labels[of_style], minlength=len(CATEGORIES))
        assert dict(zip(CATEGORIES, counts.tolist(), strict=True)) == COUNTS


def test_shapes_and_types(everything):
    assert everything.images.shape == (3796, 32, 32, 3) and everything.images.dtype == np.uint8
    assert everything.labels.dtype == np.int64
    assert len(everything.captions) == len(everything.concepts) == len(everything.styles) == 3796
    assert all(text and text == text.lower().strip() for text in everything.captions)


def test_known_entries(everything):
    """Picture, label and caption belong together: spot checks by colour, in both styles."""

    def only(concept):
        return [i for i, found in enumerate(everything.concepts) if found == concept]

    for concept, caption, category, colour in [
        ("1f600", "grinning face, grinning", "Smileys & Emotion", (255, 200, 50)),
        ("1f7e9", "large green square", "Symbols", (110, 180, 80)),
    ]:
        rows = only(concept)
        assert [everything.styles[row] for row in rows] == list(STYLES)
        for row in rows:
            assert everything.captions[row].startswith(caption)
            assert CATEGORIES[everything.labels[row]] == category
            middle = np.median(everything.images[row, 4:28, 4:28].reshape(-1, 3), axis=0)
            assert np.abs(middle - colour).max() < 60


def test_split_by_concept_is_a_fixed_tenth():
    train, val = load_emoji(split="train"), load_emoji(split="val")
    assert len(train) + len(val) == 3796
    assert not set(train.concepts) & set(val.concepts)
    assert 0.08 < len(val) / 3796 < 0.12
    assert set(val.labels.tolist()) == set(range(len(CATEGORIES)))
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in val.images}
    genders = [f"{code}-200d-1f33e" for code in ("1f468", "1f469", "1f9d1")]  # man, woman, person: farmer
    assert len({concept in set(val.concepts) for concept in genders}) == 1


def test_fingerprint_follows_the_selection():
    fingerprints = [
        load_emoji(split=split, styles=styles).fingerprint
        for split in ("train", "val")
        for styles in (("twemoji",), ("noto",), ("twemoji", "noto"))
    ]
    assert len(set(fingerprints)) == 6
    assert fingerprints[0] == load_emoji(styles=("twemoji",)).fingerprint


@pytest.mark.parametrize("arguments", [{"styles": ("apple",)}, {"split": "test"}, {"styles": ()}])
def test_wrong_selection_is_refused(arguments):
    with pytest.raises(ValueError, match=r"valid are|one or more"):
        load_emoji(**arguments)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_emoji(path=tmp_path / "absent.npz")

    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, x=np.zeros(3))
    with pytest.raises(ValueError, match="not an emoji data file"):
        load_emoji(path=foreign)
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(ValueError, match="not an emoji data file"):
        load_emoji(path=text)

    content = bytearray(EMOJI_FILE.read_bytes())
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_emoji(path=truncated)
    content[len(content) // 2] ^= 0xFF
    flipped = tmp_path / "flipped.npz"
    flipped.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_emoji(path=flipped)
