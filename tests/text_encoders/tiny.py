"""Text encoders of the published architectures, tiny and with random weights, in folders of the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = ["a", "red", "green", "apple", "dragon", "eating", "pizza"]


def transformers() -> Any:
    """The library; the test is skipped where it is missing."""
    return pytest.importorskip("transformers", reason="extra `text` is not installed")


def save_t5(folder: Path) -> Path:
    """A T5 of width 32."""
    library = transformers()
    torch.manual_seed(0)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0), *((f"▁{word}", -2.0) for word in WORDS)]
    library.T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    settings = library.T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    library.T5EncoderModel(settings).eval().save_pretrained(folder)
    return folder


def save_clip_text(folder: Path) -> Path:
    """The text half of a CLIP of width 32, with a projection to 24, laid out as in a diffusers pipeline."""
    library = transformers()
    torch.manual_seed(0)
    save_clip_tokenizer(folder / "tokenizer")
    settings = library.CLIPTextConfig(**clip_text_settings(), projection_dim=24)
    library.CLIPTextModelWithProjection(settings).eval().save_pretrained(folder / "text_encoder")
    return folder


def save_clip_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer with a vocabulary of single letters."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    names = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    transformers().CLIPTokenizer(vocab={n: i for i, n in enumerate(names)}, merges=[]).save_pretrained(folder)


def clip_text_settings() -> dict[str, Any]:
    """Of the text half."""
    return {
        "vocab_size": 54,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": 52,
        "eos_token_id": 53,
        "pad_token_id": 53,
    }


def save_clip(folder: Path) -> Path:
    """A whole CLIP, text and images of 30 x 30 pixels, in one folder as transformers writes it."""
    library = transformers()
    torch.manual_seed(0)
    save_clip_tokenizer(folder)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 30,
        "patch_size": 10,
    }
    settings = library.CLIPConfig(text_config=clip_text_settings(), vision_config=vision, projection_dim=24)
    library.CLIPModel(settings).eval().save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}}
    library.CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder
