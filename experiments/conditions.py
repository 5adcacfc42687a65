"""What images are sampled under: class labels, or captions with their features.

Shapes: N images, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.config import DATASETS
from datamodules.text_store import TextStore, cached_text_store
from experiments.checks import evaluation_data
from experiments.errors import UserError
from experiments.pictures import GRID_ROWS
from experiments.run_config import RunConfig
from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.text_encoders.config import TEXT_ENCODERS

GRID_COLUMNS = 8
"""Columns of a grid where the data has no classes."""
MOST_COLUMNS = 16
NO_CLASS = -1
"""Label of a prompt that a person typed."""


@dataclass(frozen=True)
class Conditions:
    """The conditions of N images.

    Attributes:
        labels: (N,) int64 classes. Captions out of a data set keep the class they had there, for measuring.
        captions: N strings, or none where images are conditioned on their class.
        text: features of captions; image i has row `rows[i]`.
        rows: (N,) int64.
        origin: where the captions are from, in words.
    """

    labels: np.ndarray
    captions: tuple[str, ...] = ()
    text: TextStore | None = None
    rows: np.ndarray | None = None
    origin: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, device: torch.device) -> Condition:
        """The condition of images `indices`, (B,)."""
        if self.text is None or self.rows is None:
            return torch.as_tensor(self.labels[indices], device=device)
        features, mask, pooled = self.text.batch(self.rows[indices])
        return TextFeatures(features.to(device), mask.to(device), None if pooled is None else pooled.to(device))


def build_text_encoder(config: RunConfig, device: torch.device | str = "cpu") -> Any:
    """The run's text encoder (its weights are loaded when they are needed), or None."""
    if config.text_encoder.name == "none":
        return None
    return TEXT_ENCODERS.build(config.text_encoder, device)


def caption_conditions(
    config: RunConfig,
    captions: Sequence[str],
    labels: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    origin: str = "",
) -> Conditions:
    """Conditions of these captions; features are made once and kept in the root's cache.

    Args:
        labels: (N,) classes of the captions in their data set; None = they are a person's own.

    Raises:
        ValueError: the text encoder cannot encode them, because something it needs is not installed, say.
    """
    distinct = sorted(set(captions))
    store = cached_text_store(distinct, build_text_encoder(config, device), config.root / "cache")
    row = {caption: i for i, caption in enumerate(distinct)}
    classes = np.full(len(captions), NO_CLASS) if labels is None else np.asarray(labels, dtype=np.int64)
    return Conditions(classes, tuple(captions), store, np.array([row[c] for c in captions]), origin)


def evaluation_conditions(config: RunConfig, device: torch.device | str = "cpu", count: int = 0) -> Conditions:
    """The conditions of `count` images, or of `evaluation.num_samples`, balanced over the classes.

    Labels are 0, 1, .., classes - 1, 0, 1, ... Captions are those of the split `evaluation.prompts`: image i gets the
    next caption of its class, in an order that is shuffled once and for all, and that starts again when it is used up.
    """
    count = count or config.evaluation.num_samples
    if config.generator.condition == "class":
        return Conditions(np.arange(count) % config.generator.num_classes)
    if file := config.evaluation.prompt_file:
        prompts = read_prompts(Path(file))
        asked = [prompts[i % len(prompts)] for i in range(count)]
        origin = f"{len(prompts)} captions of {Path(file).name}, one after the other"
        return caption_conditions(config, asked, None, device, origin)
    split = config.evaluation.prompts
    data = evaluation_data(config)
    captions, labels, available = choose_captions(data, split, count)
    origin = f"{available} captions of {data.name}/{split}, balanced over classes, in a fixed shuffled order"
    return caption_conditions(config, captions, labels, device, origin)


def grid_conditions(config: RunConfig, device: torch.device | str = "cpu") -> Conditions:
    """The conditions of the sample grid, the same in every run: one column per class, up to 16 of them.

    Of captions, the upper half of the grid is held out from training and the lower half seen in it.
    """
    columns = grid_columns(config)
    if config.generator.condition == "class":
        shown = np.arange(columns) * config.generator.num_classes // columns  # of many classes, some spread over them
        return Conditions(np.tile(shown, GRID_ROWS))
    half = GRID_ROWS * columns // 2
    (heldout, a, _), (seen, b, _) = (choose_captions(config.data, split, half) for split in ("val", "train"))
    return caption_conditions(config, heldout + seen, np.concatenate([a, b]), device)


def read_prompts(file: Path) -> list[str]:
    """The captions of a text file, one a line; empty lines are left out. Raises UserError if there are none."""
    try:
        prompts = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"evaluation.prompt_file={file} cannot be read as text: {error}.") from error
    if not prompts:
        raise UserError(f"evaluation.prompt_file={file} holds no caption; write one a line.")
    return prompts


def grid_columns(config: RunConfig) -> int:
    """Columns of the sample grid."""
    return min(len(config.data.class_names) or GRID_COLUMNS, MOST_COLUMNS)


def choose_captions(data: Any, split: str, count: int) -> tuple[list[str], np.ndarray, int]:
    """`count` captions of a split with their labels, and how many different ones there are."""
    captions, labels = DATASETS.target(data.name).prompts(data, split)
    order = np.random.default_rng(0).permutation(len(captions))
    classes = [order[labels[order] == label] for label in np.unique(labels)]
    chosen = []
    for i in range(count):
        members = classes[i % len(classes)]
        chosen.append(members[i // len(classes) % len(members)])
    return [captions[i] for i in chosen], labels[chosen], len(captions)
