"""Verification of a store: what is shown of it, and damage found."""

import numpy as np
import pytest

from datamodules.tokenize.verify import verify_store
from tests.datamodules.collections import (
    Toy,
    class_tree,
    run,
)


def test_verify_decodes_random_samples_of_the_right_images(tmp_path):
    from PIL import Image

    run("folder", class_tree(tmp_path / "images", range(1, 14)), tmp_path / "out", flip=True)
    found = verify_store(tmp_path / "out/train", Toy().decode_uint8, tmp_path / "grid.png")
    assert (found.images, found.views, found.captions) == (13, 2, 0) and found.codes_in_use == pytest.approx(13 / 64)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (13 * 98, 2 * 98, 3)  # tiles of 16 pixels, six times as large
    for row, (key, label, _) in enumerate(found.shown):
        number = int(key[-7:-4])
        assert label == number % 3 and grid[row * 98 + 48, 48].tolist() == [4 * number] * 3
    run("folder", tmp_path / "images", tmp_path / "plain")
    found = verify_store(tmp_path / "plain/train", Toy().decode_uint8, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (4 * 98, 4 * 98, 3)  # of one view: four images a row
    assert grid[98 + 48, 98 + 48].tolist() == [4 * int(found.shown[5][0][-7:-4])] * 3


def test_verify_finds_damage(tmp_path):
    run("folder", class_tree(tmp_path / "images", range(1, 14)), tmp_path / "out")
    path = tmp_path / "out/train/tokens.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"checksum of tokens\.npy"):
        verify_store(tmp_path / "out/train")
