"""Configurations of the text encoders. Torch-free, so that a plan can identify an encoder without loading it.

Every configuration has `resolve()`. All but that of "none" offer `text_tokens` (T, most tokens of a caption),
`text_width` (E, width of a token's feature), `pooled_width` (P, width of the whole caption's feature; 0 = there is
none) and `fingerprint`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lightning_modules.bounds import check_least
from lightning_modules.hashing import file_sha256, text_sha256
from lightning_modules.registry import Entry, Registry
from lightning_modules.text_encoders.checkpoint import model_folder, settings_of, weights_fingerprint

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

    text_tokens: int = 1
    """Most tokens of a caption; longer ones are cut."""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        check_least(self, "text_encoder", text_tokens=1)

    @property
    def features_id(self) -> str:
        """Identifies the features of a caption: weights and every setting, but not where the weights lie."""
        settings = {key: value for key, value in asdict(self).items() if key not in ("model", "revision")}
        return text_sha256(json.dumps(settings, sort_keys=True))


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


@dataclass
class _PretrainedConfig(_TextEncoderConfig):
    """What the encoders share that are loaded through transformers (extra `text`)."""

    model: str = ""
    """A local folder (of the model, or of a diffusers pipeline), or a name on the Hugging Face hub. Not needed to
    plan."""
    revision: str = "main"
    """Branch, tag or commit of a name on the hub."""
    text_width: int = 1
    """Width of a token's feature, as the model has it."""
    dtype: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the encoder; features are kept in 16 bits either way."""
    fingerprint: str = ""
    """Of weights and tokenizer, or name and revision on the hub; filled in on resolving, and stands for `model` in the
    run's identity."""

    def resolve(self) -> None:
        """Fill in the fingerprint.

        Raises:
            FileNotFoundError: no model where `model` says.
            ValueError: its width is not the configured one.
        """
        if not self.model:
            return
        folder = model_folder(self.model)
        if folder is None:
            self.fingerprint = f"{self.model}@{self.revision}"
            return
        self.fingerprint = weights_fingerprint(folder)
        settings = settings_of(folder)
        for key, names in self._sizes().items():
            found = next((settings[name] for name in names if name in settings), None)
            if found not in (None, getattr(self, key)):
                raise ValueError(
                    f"text_encoder.{key}={getattr(self, key)}, but the encoder in {folder} has {found}; "
                    f"set text_encoder.{key}={found}."
                )

    def _sizes(self) -> dict[str, tuple[str, ...]]:
        """Field -> what it may be called in config.json."""
        return {"text_width": ("d_model", "hidden_size")}


@dataclass
class T5Config(_PretrainedConfig):
    """The encoder of any T5 (arXiv 1910.10683): T5-Large as it stands; Flan-T5-XXL and t5-v1_1-xxl with width 4096."""

    name: str = "t5"
    text_tokens: int = 120
    """Most tokens of a caption, the end of sentence included: 120 in MaskMamba and LlamaGen, 350 in Dimba."""
    text_width: int = 1024

    @property
    def pooled_width(self) -> int:
        """T5 has no feature for the whole caption."""
        return 0


@dataclass
class CLIPConfig(_PretrainedConfig):
    """The text half of CLIP (arXiv 2103.00020), with its projection as the pooled feature; ViT-L/14 as it stands."""

    name: str = "clip"
    text_tokens: int = 77
    text_width: int = 768
    pooled_width: int = 768
    """Width of the projection."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    layer: int = -2
    """Whose states are the features: the last but one, as aMUSEd has it; -1 = the last, before its norm."""
    padding: Literal["masked", "encoded"] = "masked"
    """Leave padding out, or hand on what the encoder makes of it, as aMUSEd's published weights are used to."""

    def _sizes(self) -> dict[str, tuple[str, ...]]:
        return {"text_width": ("hidden_size",), "pooled_width": ("projection_dim",)}


TEXT_ENCODERS = Registry(
    "text encoder",
    {
        "none": Entry(NoTextEncoderConfig, "lightning_modules.text_encoders.config:NoTextEncoderConfig"),
        "t5": Entry(T5Config, "lightning_modules.text_encoders.t5:T5"),
        "clip": Entry(CLIPConfig, "lightning_modules.text_encoders.clip:CLIP"),
        "minilm": Entry(MiniLMConfig, "lightning_modules.text_encoders.minilm:MiniLM"),
    },
)
