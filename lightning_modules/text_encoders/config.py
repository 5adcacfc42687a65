"""Configurations of the text encoders. Torch-free, so that a plan can identify an encoder without loading it.

Every configuration offers `text_tokens` (T, most tokens of a caption), `text_width` (E, width of a token's feature),
`pooled_width` (P, width of the whole caption's feature; 0 = there is none), `fingerprint` and `resolve()`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_modules.hashing import file_sha256, text_sha256
from lightning_modules.registry import Entry, Registry

MINILM_FILE = Path(__file__).parent / "weights" / "minilm.npz"


@dataclass
class NoTextEncoderConfig:
    """No captions: generators are conditioned on class labels."""

    name: str = "none"

    def resolve(self) -> None:
        """Nothing to fill in."""


@dataclass
class _TextEncoderConfig:
    """What the encoders share."""

    name: str = ""
    text_tokens: int = 0
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.text_tokens < 1:
            raise ValueError(f"text_encoder.text_tokens={self.text_tokens} must be at least 1.")

    @property
    def features_id(self) -> str:
        """Identifies the features of a caption: weights and every setting, but not where the weights lie."""
        settings = {key: value for key, value in asdict(self).items() if key != "model"}
        return text_sha256(repr(sorted(settings.items())))


@dataclass
class MiniLMConfig(_TextEncoderConfig):
    """The embedded encoder: all-MiniLM-L6-v2 (arXiv 2002.10957) reduced to 128 dimensions.

    Features of all captions of the emoji data come with the suite; other captions need the extra `text`.
    """

    name: str = "minilm"
    text_tokens: int = 16
    """Most tokens of a caption, [CLS] and [SEP] included; 1 % of the emoji captions are longer and are cut."""
    fingerprint: str = ""
    """sha256 of the file of projection and features, which names the weights; filled in on resolving."""

    @property
    def text_width(self) -> int:
        """Principal components that are kept."""
        return 128

    @property
    def pooled_width(self) -> int:
        """The pooled feature is the mean of the tokens' features."""
        return 128

    def resolve(self) -> None:
        """Fill in the fingerprint. Raises FileNotFoundError when the file is not installed."""
        self.fingerprint = file_sha256(MINILM_FILE)


TEXT_ENCODERS = Registry(
    "text encoder",
    {
        "none": Entry(NoTextEncoderConfig, "lightning_modules.text_encoders.config:NoTextEncoderConfig"),
        "minilm": Entry(MiniLMConfig, "lightning_modules.text_encoders.minilm:MiniLM"),
    },
)
