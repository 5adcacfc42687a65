"""What a file of reference statistics is of, as its headers tell: enough to refuse it when a run is planned.

Torch-free. The layout is described in `lightning_modules.metrics.statistics`.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.metrics.config import LEAST_IMAGES

UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What reading an npz raises where it is damaged, or none."""


def check_file(path: Path, size: int) -> None:
    """Whether samples of `size` x `size` pixels can be measured against a file, without reading its arrays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or does not fit (`check_images`).
    """
    meta: dict[str, Any] = {}
    shape: tuple[int, ...] = ()
    try:
        with zipfile.ZipFile(path) as archive:
            if "meta.npy" in archive.namelist():
                with archive.open("meta.npy") as file:
                    meta = json.loads(np.lib.format.read_array(file).tobytes())
            if "arr_0.npy" in archive.namelist():
                with archive.open("arr_0.npy") as file:
                    np.lib.format.read_magic(file)
                    shape, _, _ = np.lib.format.read_array_header_1_0(file)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise damaged(path, error) from error
    kept, side = shape[:2] if len(shape) == 4 else (None, 0)  # of another shape it is refused when it is read
    check_images(str(meta.get("name", path.name)), size, int(meta.get("image_size", 0)) or side, kept)


def check_images(name: str, size: int, image_size: int, kept: int | None) -> None:
    """Whether samples fit the images that statistics are of.

    Args:
        name: of the statistics.
        size: side of the samples in pixels.
        image_size: side of the images; 0 = not known.
        kept: how many of the images the file keeps; None = it keeps none.

    Raises:
        ValueError: another size, or some images kept, but too few.
    """
    if image_size not in (0, size):
        raise ValueError(
            f"Samples are of {size} x {size} pixels, the reference {name} of {image_size} x {image_size} pixels; make "
            f"one with `ablate reference --size {size}`."
        )
    if kept is not None and kept < LEAST_IMAGES:
        raise ValueError(
            f"The reference {name} keeps {kept} of its images, too few for KID, precision and recall; make it anew "
            f"with `ablate reference --keep N`, N at least {LEAST_IMAGES}, or 0 to go without them."
        )


def damaged(path: Path, error: Exception) -> ValueError:
    """The refusal of a file that is no whole npz."""
    return ValueError(
        f"{path} is damaged or no npz file ({error}); name statistics that `ablate reference` makes, or a file as "
        "published for ADM."
    )
