"""Batches under captions: features belong to their captions, with workers, on several processes, and after a resume."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.emoji.config import EmojiConfig
from datamodules.emoji.datamodule import EmojiDataModule
from datamodules.encoder import ImageEncoder
from datamodules.loader import ResumableLoader
from datamodules.sampler import EpochSampler
from lightning_modules.text_encoders.config import MiniLMConfig
from lightning_modules.text_encoders.minilm import MiniLM

BATCH = 16
TEXT = MiniLM(MiniLMConfig())


def encode(images: torch.Tensor) -> torch.Tensor:
    """A stand-in tokenizer: four tokens, brightness of the quarters."""
    return images.float().mean(3).unflatten(2, (2, 16)).unflatten(1, (2, 16)).mean((2, 4)).long().flatten(1)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> EmojiDataModule:
    cache: Path = tmp_path_factory.mktemp("cache")
    made = EmojiDataModule(EmojiConfig(condition="caption"), BATCH, 0, 0, ImageEncoder(encode, "toy", 256), cache, TEXT)
    made.prepare_data()
    made.setup("fit")
    return made


def assert_features_fit(batch: dict[str, Any]) -> None:
    expected = TEXT.encode(batch["caption"]).padded(TEXT.config.text_tokens)
    for found, wanted in zip(batch["text"], expected, strict=True):
        assert torch.equal(found, wanted)


def test_features_are_those_of_the_captions(module: EmojiDataModule) -> None:
    for loader in (module.train_dataloader(), module.val_dataloader()):
        for batch in islice(loader, 3):
            assert batch["text"][0].shape == (BATCH, 16, 128)
            assert_features_fit(batch)


def test_on_classes_there_is_no_text(module: EmojiDataModule) -> None:
    plain = EmojiDataModule(EmojiConfig(), BATCH, 0, 0, module.encoder, module.cache_dir, TEXT)
    plain.setup("fit")
    assert next(iter(plain.train_dataloader())).keys() == {"tokens", "label"}


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_an_epoch_and_resume_in_it(module: EmojiDataModule, workers: int) -> None:
    dataset = module._datasets["train"]
    count = len(dataset)
    whole = list(islice(ResumableLoader(dataset, EpochSampler(count, 2 * BATCH, 0)), 4))
    for rank in range(2):
        first = ResumableLoader(dataset, EpochSampler(count, BATCH, 0, 1, rank, 2), workers)
        taken = list(islice(first, 2))
        second = ResumableLoader(dataset, EpochSampler(count, BATCH, 0, 1, rank, 2), workers)
        second.load_state_dict(first.state_dict())
        taken += list(islice(second, 2))
        for mine, all_of_it in zip(taken, whole, strict=True):
            assert mine["caption"] == all_of_it["caption"][rank * BATCH : (rank + 1) * BATCH]
            assert_features_fit(mine)
