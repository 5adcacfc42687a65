"""Configuration of the embedded data set. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from datamodules.base_config import DataConfig
from datamodules.counts import check_share, count_best, count_subset
from datamodules.emoji.labels import CATEGORIES, EMOJI_FILE, STYLES
from lightning_modules.bounds import check_least
from lightning_modules.hashing import file_sha256


@dataclass
class EmojiConfig(DataConfig):
    """The embedded data set: 1,898 emoji in two styles, 32x32 pixels, 9 categories, a caption each."""

    has_images: ClassVar[bool] = True
    name: str = "emoji"
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    """Drawings that take part, one image of each emoji from every style."""
    condition: Literal["class", "caption"] = "class"
    """What a batch carries beside its label: nothing more, or the captions."""
    flip: bool = False
    """Mirror a random half of the training images, drawn anew each epoch (letters and flags are mirrored too)."""
    subset: int = 0
    """Train on this many images only, a fixed random choice; 0 = all."""
    best_share: float = 1.0
    """Train and validate on this share of the images, those of the highest `score` (quality tuning)."""
    score: Literal["colourfulness", "edge_density"] = "edge_density"
    """See `datamodules.quality`."""
    fingerprint: str = ""
    """sha256 of the data file, filled in when a run is resolved: it stands for the data in the run's identity."""

    def __post_init__(self) -> None:
        if not self.styles or len(set(self.styles)) != len(self.styles) or not set(self.styles) <= set(STYLES):
            raise ValueError(
                f"data.styles={list(self.styles)} must be one or more different names out of {', '.join(STYLES)}."
            )
        check_least(self, "data", subset=0)
        check_share(self.best_share)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return CATEGORIES

    @property
    def num_classes(self) -> int:
        """Number of classes a generator is conditioned on; 0 where the condition is a caption."""
        return len(CATEGORIES) if self.condition == "class" else 0

    def resolve(self) -> None:
        """Fill in the fingerprint. Raises FileNotFoundError when the data file is not installed."""
        self.fingerprint = file_sha256(EMOJI_FILE)

    def training_images(self) -> int:
        """How many images a run trains on. Raises FileNotFoundError or ValueError when there are none, or too few."""
        from datamodules.emoji.data import count_emoji

        return count_subset(count_best(count_emoji(self.styles), self.best_share), self.subset)
