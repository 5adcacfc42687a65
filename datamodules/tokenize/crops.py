"""From an image of any size to V square views of S x S pixels.

    centre          short side to S (bicubic), middle
    adm             as guided-diffusion (ADM) crops ImageNet: halve with a box filter while the short side is at least
                    2 S, then bicubic to S, middle; the crop behind the published reference statistics
    ten_1.1, ten_1.05   as LlamaGen tokenizes: ADM crop to int(1.1 S) or int(1.05 S), then the four corners and the
                    middle, and the same of the mirrored image
    random_K        K random resized crops (area 0.5 to 1, aspect 3/4 to 4/3), fixed by the image's name

Shapes: V views, S pixels.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

TEN = {"ten_1.1": 1.1, "ten_1.05": 1.05}
CORNERS = ("top left", "top right", "bottom left", "bottom right", "middle")
RANDOM = re.compile(r"random_([1-9]\d?)")
AREA, ASPECT, TRIES = (0.5, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Crops:
    """Which views are made of an image.

    Attributes:
        names: one or more of those above.
        flip: mirrored ones too (ten-crop has them anyway).
        size: S.

    Raises:
        ValueError: an unknown name.
    """

    names: tuple[str, ...] = ("adm",)
    flip: bool = False
    size: int = 256

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in ("centre", "adm", *TEN) and not RANDOM.fullmatch(name):
                raise ValueError(
                    f"Unknown crop '{name}'. Valid: centre, adm, {', '.join(TEN)}, random_K (K = 1 to 99)."
                )
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("Name one or more different crops.")

    @property
    def views(self) -> list[str]:
        """A name for each of the V views."""
        result = []
        for name in self.names:
            if name in TEN:
                result += [f"{name} {corner}{side}" for side in ("", " mirrored") for corner in CORNERS]
                continue
            match = RANDOM.fullmatch(name)
            plain = [f"random {i}" for i in range(int(match[1]))] if match else [name]
            result += plain + ([f"{view} mirrored" for view in plain] if self.flip else [])
        return result

    def __call__(self, image: Image.Image, key: str = "") -> np.ndarray:
        """image: RGB -> (V, S, S, 3) uint8. Random crops depend on `key` alone."""
        views: list[np.ndarray] = []
        for name in self.names:
            if name in TEN:
                views += ten_crop(np.asarray(adm_crop(image, int(self.size * TEN[name]))), self.size)
                continue
            if match := RANDOM.fullmatch(name):
                plain = [np.asarray(random_crop(image, self.size, key, i)) for i in range(int(match[1]))]
            else:
                plain = [np.asarray((adm_crop if name == "adm" else centre_crop)(image, self.size))]
            views += plain + ([view[:, ::-1] for view in plain] if self.flip else [])
        return np.stack(views)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size`, then the middle square."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """ADM's centre crop: the box filter first keeps large images from aliasing."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return centre_crop(image, size)


def ten_crop(image: np.ndarray, size: int) -> list[np.ndarray]:
    """(H, W, 3) -> ten of (size, size, 3): corners and middle, then corners and middle of the mirrored image."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return [
        picture[top : top + size, left : left + size] for picture in (image, image[:, ::-1]) for top, left in places
    ]


def random_crop(image: Image.Image, size: int, key: str, number: int) -> Image.Image:
    """Random resized crop `number` of the image named `key`."""
    seed = int.from_bytes(hashlib.sha256(f"{key}\n{number}".encode()).digest()[:8], "little")
    generator = np.random.default_rng(seed)
    for _ in range(TRIES):
        area = image.width * image.height * generator.uniform(*AREA)
        aspect = math.exp(generator.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left = int(generator.integers(image.width - width + 1))
            top = int(generator.integers(image.height - height + 1))
            box = (left, top, left + width, top + height)
            return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=None)
    return centre_crop(image, size)
