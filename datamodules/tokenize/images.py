"""Image files of every kind to RGB, without silent damage.

What is unusual but usable (CMYK, palette, 16 bit, rotated by EXIF, ..) is converted and counted under `notes`; what is
broken is refused with a reason.
"""

from __future__ import annotations

import io
import warnings
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
SMALLEST = 8


def applies_exif(dataset: str, asked: bool | None = None) -> bool:
    """Whether images are turned as their EXIF orientations say: as asked, else everywhere but for imagenet, whose
    published pipelines ignore them."""
    return dataset != "imagenet" if asked is None else asked


def decode_image(content: bytes, name: str = "", exif: bool = True) -> tuple[Image.Image, list[str]]:
    """A file's first image as RGB, transparency on white.

    Args:
        content: the file.
        name: whose ending is compared with the content.
        exif: turn the image as its EXIF orientation says; see `applies_exif`.

    Returns:
        the image, and what was unusual about it.

    Raises:
        ValueError: why it cannot be used.
    """
    if not content:
        raise ValueError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; the pixels are what counts
            image: Image.Image = Image.open(io.BytesIO(content))
            notes = _peculiarities(image, name)
            image.load()
            if image.getexif().get(ORIENTATION, 1) != 1:
                notes.append("EXIF rotation " + ("applied" if exif else "ignored"))
                image = ImageOps.exif_transpose(image) if exif else image
            if image.mode == "F":
                raise ValueError("floating-point pixels, whose range is not known")
            image = _to_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError("not an image") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever malformed bytes lead them to
        raise ValueError(f"damaged image: {error}") from error
    if min(image.size) < SMALLEST:
        raise ValueError(f"{image.width} x {image.height} pixels are too few")
    return image, notes


def _peculiarities(image: Image.Image, name: str) -> list[str]:
    notes = []
    expected = FORMATS.get(PurePath(name).suffix.lower())
    if expected and image.format not in (expected, "MPO"):  # MPO: a JPEG with further views
        notes.append("wrong file extension")
    kinds = {"CMYK": "CMYK", "P": "palette", "PA": "palette", "L": "grayscale", "1": "grayscale", "LA": "grayscale"}
    if kind := "16 bit" if image.mode in SIXTEEN_BIT else kinds.get(image.mode):
        notes.append(kind)
    if image.has_transparency_data:
        notes.append("transparency")
    return notes


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT:  # PIL's own conversion clips at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:  # mode I, of 32 bits, in which 16-bit PNG and PGM files come too
            raise ValueError(f"whole-number pixels from {values.min()} to {values.max()}, whose range is not known")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
