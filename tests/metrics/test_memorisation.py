"""Memorisation: copies are found, new images are not, and the threshold is the held-out images' own."""

import numpy as np
import pytest
import torch

from datamodules.emoji.data import load_emoji
from lightning_modules.metrics import memorisation as module
from lightning_modules.metrics.memorisation import HELDOUT_SHARE, memorisation, nearest_distance


@pytest.fixture(scope="module")
def emoji():
    return load_emoji(split="train").images, load_emoji(split="val").images


def test_copies_are_found(emoji):
    train, heldout = emoji
    chosen = train[::20]
    noisy = np.clip(chosen + np.random.default_rng(0).normal(0, 15, chosen.shape), 0, 255).astype(np.uint8)
    for copies in (chosen, chosen[:, :, ::-1], noisy):
        assert memorisation(copies, train, heldout).found.mean() == 1


def test_new_images_score_the_heldout_share(emoji):
    train, heldout = emoji
    assert memorisation(heldout, train, heldout).found.mean() == pytest.approx(HELDOUT_SHARE, abs=0.005)
    halves = memorisation(heldout[::2], train, heldout[1::2])
    assert halves.found.mean() == pytest.approx(HELDOUT_SHARE, abs=0.06)


def test_collages_are_not_copies(emoji):
    train, heldout = emoji
    left, right = train[:200], train[1000:1200]
    collage = np.concatenate([left[:, :, :16], right[:, :, 16:]], axis=2)
    assert memorisation(collage, train, heldout).found.mean() < 0.05


def test_mixture_is_proportional(emoji):
    train, heldout = emoji
    new = heldout[:100]
    rate = memorisation(np.concatenate([train[:100], new]), train, heldout).found.mean()
    assert rate == pytest.approx(0.5 + memorisation(new, train, heldout).found.mean() / 2)


def test_nearest_distance_by_definition():
    generator = torch.Generator().manual_seed(0)
    queries, references = (torch.rand(n, 12, generator=generator, dtype=torch.float64) * 255 for n in (700, 30))
    expected = (queries[:, None] - references[None]).square().mean(2).amin(1).sqrt()
    torch.testing.assert_close(nearest_distance(queries, references), expected)
    assert nearest_distance(references, references).max() < 1e-3


def test_images_are_averaged_in_parts(monkeypatch):
    """Fifty thousand of 256 pixels at once would be 39 GB of float32."""
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    whole = module._descriptors(images)
    sizes, pool = [], module.F.adaptive_avg_pool2d
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module.F, "adaptive_avg_pool2d", lambda x, size: sizes.append(len(x)) or pool(x, size))
    assert torch.equal(module._descriptors(images), whole) and sizes == [3, 3, 1]
