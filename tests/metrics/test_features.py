"""The EfficientNet-Lite0 extractor and the feature cache."""

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet

from datamodules.emoji.data import load_emoji
from lightning_modules.metrics import efficientnet, features
from lightning_modules.metrics.features import efficientnet_extractor


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


def test_fusing_batch_norms_changes_nothing():
    network = EfficientNet.from_name(efficientnet.NAME)
    network.load_state_dict(torch.load(efficientnet.weight_file(), weights_only=True))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.eval().extract_features(x)
        assert expected.std() > 0.1
        torch.testing.assert_close(
            efficientnet.fuse_batch_norms(network).extract_features(x), expected, atol=1e-3, rtol=0
        )


def test_features_do_not_depend_on_the_batch(images):
    extractor = efficientnet_extractor()
    whole, parts = (extractor(images, size, "cpu")[efficientnet.LAYER] for size in (6, 4))
    assert whole.shape == (6, 1280) and whole.dtype == torch.float32
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_it_has_learned_to_see():
    """Real weights and the right preprocessing: clear drawings get their ImageNet class."""
    extractor = efficientnet.EfficientNetLite0Extractor(efficientnet.NAME, ["logits", efficientnet.LAYER])
    data = load_emoji(split="all")
    for concept, style, imagenet_class in (("1f3bb", "twemoji", 889), ("1f353", "noto", 949)):  # violin, strawberry
        row = next(i for i, key in enumerate(zip(data.concepts, data.styles, strict=True)) if key == (concept, style))
        logits, pooled = extractor(torch.from_numpy(data.images[row : row + 1]).permute(0, 3, 1, 2))
        assert logits.shape == (1, 1000) and pooled.shape == (1, 1280)
        assert logits.argmax() == imagenet_class


def test_cache(images, tmp_path, monkeypatch):
    extractor = efficientnet_extractor()
    first = extractor.cached(images, 4, "cpu", tmp_path)[efficientnet.LAYER]
    (file,) = (tmp_path / "features").iterdir()

    with monkeypatch.context() as patch:
        patch.setattr(features.Extractor, "__call__", lambda *_: pytest.fail("the network ran again"))
        assert torch.equal(extractor.cached(images, 4, "cpu", tmp_path)[efficientnet.LAYER], first)
        with pytest.raises(pytest.fail.Exception):
            extractor.cached(images[::-1], 4, "cpu", tmp_path)

    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(extractor.cached(images, 4, "cpu", tmp_path)[efficientnet.LAYER], first)
    assert [path.name for path in (tmp_path / "features").iterdir()] == [file.name]
    assert len(file.read_bytes()) > 1000


def test_cache_key_covers_weights_preprocessing_and_layers():
    extractor = efficientnet_extractor()
    keys = {extractor.fingerprint}
    for change in ({"sha256": "other"}, {"resize": "other"}):
        keys.add(features.Extractor(**({**vars(extractor)} | change)).fingerprint)
    assert len(keys) == 3


def test_no_cache(images):
    assert efficientnet_extractor().cached(images, 4, "cpu", None)[efficientnet.LAYER].shape == (6, 1280)
