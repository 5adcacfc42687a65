"""Scorers of the published architectures, tiny and with random weights, in folders as transformers writes them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.text_encoders.tiny import clip_text_settings, save_clip_tokenizer, transformers

SIDE = 32


def save_blip_vqa(folder: Path) -> Path:
    """A BLIP for visual question answering; [DEC] and [ENC] stand after BERT's vocabulary, as in the published one."""
    library = transformers()
    torch.manual_seed(0)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a red green yes no apple book vase ? b o k".split()
    library.BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    text = {
        "vocab_size": len(words) + 2,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": len(words),
        "sep_token_id": 3,
        "pad_token_id": 0,
        "initializer_range": 0.5,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
        "initializer_range": 0.5,
    }
    settings = library.BlipConfig(text_config=text, vision_config=vision)
    library.BlipForQuestionAnswering(settings).eval().save_pretrained(folder)
    library.BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def save_owlvit(folder: Path) -> Path:
    """An OWL-ViT that looks at 8 x 8 patches."""
    library = transformers()
    torch.manual_seed(0)
    save_clip_tokenizer(folder)
    text = {**clip_text_settings(), "max_position_embeddings": 16}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 4,
    }
    settings = library.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    library.OwlViTForObjectDetection(settings).eval().save_pretrained(folder)
    sizes = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    library.OwlViTImageProcessor(**sizes).save_pretrained(folder)
    return folder
