"""Sample grids: the same images of every row, under the captions or classes that they asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.errors import UserError
from reports.page import render
from reports.samples import SampleRow, Samples, class_names, collect_samples, enlarge, grid_image, read_images
from tests.reports import fakes


def test_captions_stand_over_the_images_that_they_asked_for(tmp_path: Path) -> None:
    subject = fakes.finished(tmp_path)
    captions = [f"caption {i} of class {i % 9}" for i in range(36)]
    for cell in fakes.cells_of():
        path = tmp_path / "runs" / cell.run_id / "evaluations" / cell.eval_id / "samples.npz"
        with np.load(path) as file:
            mixed = captions[::-1] if "group_v2" in cell.run_id else captions
            np.savez_compressed(path, arr_0=file["arr_0"], labels=file["labels"], captions=np.array(mixed))
    samples = collect_samples(subject.rows, 12)
    assert samples is not None and samples.captioned
    assert samples.rows[0].heads[:4] == tuple(captions[i] for i in (0, 9, 1, 10))
    shown = dict(zip((row.name for row in samples.rows), samples.bands(), strict=True))
    others = next(row for row in samples.rows if row.name == "group_v2").heads
    assert shown["group_v2"] == others != samples.rows[0].heads
    assert [bool(heads) for heads in shown.values()] == [True, False, False, True] and list(shown)[-1] == "group_v2"
    assert samples.notes == ("Other captions, so not comparable image by image with group_v1: group_v2.",)
    page = render(subject, [], samples, [])
    assert "The same captions" in page and "caption 10 of class 1" in page


def test_only_the_images_that_are_shown_are_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", arr_0=images)
    assert np.array_equal(read_images(tmp_path / "a.npz", 7), images[:7])
    assert np.array_equal(read_images(tmp_path / "a.npz", 99), images)


def test_samples_are_the_first_of_each_class_in_every_row(tmp_path: Path) -> None:
    samples = collect_samples(fakes.finished(tmp_path).rows, 9)
    assert samples is not None and samples.notes == ()
    assert [row.name for row in samples.rows] == list(fakes.SCHEMES)
    assert samples.rows[0].heads[0] == "Smileys & Emotion" and len(set(samples.rows[0].heads)) == 9
    cell = fakes.cells_of()[2]
    path = tmp_path / "runs" / cell.run_id / "evaluations" / cell.eval_id / "samples.npz"
    assert np.array_equal(samples.rows[2].images, np.load(path)["arr_0"][:9])


def test_more_columns_than_classes_keep_a_class_together(tmp_path: Path) -> None:
    samples = collect_samples(fakes.finished(tmp_path).rows, 18)
    assert samples is not None
    assert samples.rows[0].heads[0] == samples.rows[0].heads[1] != samples.rows[0].heads[2]


def test_other_labels_or_seeds_are_noted(tmp_path: Path) -> None:
    subject = fakes.finished(tmp_path)
    evaluation = subject.records[1].evaluation
    assert evaluation is not None
    with np.load(evaluation.samples_path) as file:
        images, labels = file["arr_0"], file["labels"]
    np.savez_compressed(evaluation.samples_path, arr_0=images, labels=labels[::-1])
    fakes.write_run(tmp_path, fakes.cells_of()[2], config__evaluation__seed=7)
    samples = collect_samples(fakes.subject(tmp_path).rows, 9)
    assert samples is not None
    assert [note.split(":")[0] for note in samples.notes] == [
        "Other labels, so not comparable image by image with group_v1",
        "serial_v1",
    ]


def test_no_samples_no_grid(tmp_path: Path) -> None:
    assert collect_samples(fakes.subject(tmp_path).rows, 9) is None
    assert collect_samples(fakes.finished(tmp_path).rows, 0) is None


@pytest.mark.parametrize("left", [0, 4, 0.5])
def test_damaged_samples_are_one_sentence(tmp_path: Path, left: float) -> None:
    evaluation = fakes.finished(tmp_path).records[1].evaluation
    assert evaluation is not None
    whole = evaluation.samples_path.read_bytes()
    evaluation.samples_path.write_bytes(whole[: int(left * len(whole)) if left < 1 else int(left)])
    with pytest.raises(UserError, match=f"Cannot read {evaluation.samples_path} .*; remove it to leave these samples"):
        collect_samples(fakes.subject(tmp_path).rows, 9)


def test_damage_among_the_images_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez_compressed(path, arr_0=np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes(600) + whole[900:])
    with pytest.raises(UserError, match=f"Cannot read {path}"):
        read_images(path, 50)


def test_small_images_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    images = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)
    large = enlarge(images)
    assert large.shape == (2, 96, 96, 3) and np.array_equal(large[:, 1::3, 1::3], images)
    assert enlarge(np.zeros((1, 256, 256, 3), np.uint8)).shape == (1, 256, 256, 3)
    samples = collect_samples(fakes.finished(tmp_path).rows, 9)
    assert samples is not None
    picture = grid_image(samples)
    assert isinstance(picture, Image.Image) and picture.width > 9 * 96 and picture.height > 4 * 96


def test_class_names_come_from_the_data_set(tmp_path: Path) -> None:
    record = fakes.finished(tmp_path).records[0]
    assert class_names(record)[-1] == "Flags"
    own = fakes.cells_of((0,))[0]
    fakes.write_run(tmp_path / "own", own, config__data__name="folder", config__data__classes=["cats", "dogs"])
    (record, *_) = fakes.subject(tmp_path / "own", [own]).records
    assert class_names(record) == ("cats", "dogs")


def test_rows_of_other_resolutions_do_not_overlap() -> None:
    colours = {32: (255, 0, 0), 64: (0, 0, 255), 48: (0, 255, 0)}
    heads = ("x", "y", "z")
    rows = [SampleRow(str(side), np.full((3, side, side, 3), c, np.uint8), heads) for side, c in colours.items()]
    picture = np.asarray(grid_image(Samples(tuple(rows), False, "seed 0")))
    for side, colour in colours.items():
        tile = enlarge(np.zeros((1, side, side, 3), np.uint8)).shape[1]
        assert (picture == colour).all(-1).sum() == 3 * tile * tile, side
