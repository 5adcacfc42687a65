"""The reference set: disjoint halves, and real images with given labels for the floor."""

import numpy as np

from lightning_modules.metrics.reference import array_sha256, split_reference


def make(count: int = 60):
    labels = np.arange(count) // 2 % 3
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, 3)
    groups = [f"concept{i // 2}" for i in range(count)]  # two images each
    return split_reference("toy", images, labels, groups, images, images[:5]), labels


def test_halves_are_disjoint_by_group_and_balanced():
    reference, labels = make()
    first, second = (set((half[:, 0, 0, 0] // 2).tolist()) for half in (reference.images, reference.real))
    assert not first & second and first | second == set(range(30))
    assert np.bincount(reference.real_labels).tolist() == [10, 10, 10]
    np.testing.assert_array_equal(reference.real_labels, labels[reference.real[:, 0, 0, 0]])
    assert reference.fingerprint == make()[0].fingerprint == array_sha256(reference.images)


def test_real_images_are_drawn_by_label():
    reference, labels = make()
    wanted = np.array([2, 0, 0, 1, 2, 2, 1])
    drawn = reference.draw_real(wanted, seed=0)[:, 0, 0, 0]
    np.testing.assert_array_equal(labels[drawn], wanted)
    assert len(set(drawn.tolist())) == len(wanted)
    np.testing.assert_array_equal(reference.draw_real(wanted, seed=0)[:, 0, 0, 0], drawn)
    assert not np.array_equal(reference.draw_real(wanted, seed=1)[:, 0, 0, 0], drawn)


def test_too_few_real_images():
    reference, _ = make()
    assert reference.draw_real(np.zeros(10, int), seed=0) is not None
    assert reference.draw_real(np.zeros(11, int), seed=0) is None
    assert reference.draw_real(np.array([7]), seed=0) is None


def test_array_sha256_covers_shape_and_type():
    array = np.zeros((2, 3), dtype=np.uint8)
    others = [array, array.reshape(3, 2), array.astype(np.int8), array + 1]
    assert len({array_sha256(other) for other in others}) == 4
    assert array_sha256(np.arange(6).reshape(2, 3)[:, ::-1]) == array_sha256(np.arange(6).reshape(2, 3)[:, ::-1].copy())
