"""The order in which each scan visits a sequence of words and image positions (VMamba's cross-scan; M-Mamba, slide 11).

Shapes: K directions, T words, H x W image positions, S positions of the sequence.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Text = Literal["prefix", "suffix", "both_ends", "none"]


def image_orders(height: int, width: int, directions: int) -> Tensor:
    """int64 (K, H W): along rows; both ways; or rows, columns, rows backwards, columns backwards, as VMamba has them.

    >>> image_orders(2, 3, 4).tolist()
    [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    """
    grid = torch.arange(height * width).view(height, width)
    ahead = [grid.flatten()] if directions < 4 else [grid.flatten(), grid.T.flatten()]
    back = [order.flip(0) for order in ahead] if directions > 1 else []
    return torch.stack(ahead + back)


def scan_orders(height: int, width: int, directions: int, words: int, text: Text) -> Tensor:
    """int32 (K, S) over the storage [words, image], or [words, image, words] for `both_ends`.

    prefix: words, then image, in every direction. suffix: image, then words, and the backward directions run through
    all of it from its end; if the words came last in every direction, no image position would ever see one.

    >>> scan_orders(1, 2, 2, 1, "prefix").tolist(), scan_orders(1, 2, 2, 1, "suffix").tolist()
    ([[0, 1, 2], [0, 2, 1]], [[1, 2, 0], [0, 2, 1]])
    """
    image = image_orders(height, width, directions)
    first = torch.arange(words).expand(len(image), -1)
    match text:
        case "none":
            order = image
        case "prefix":
            order = torch.cat([first, image + words], dim=1)
        case "suffix":
            ahead = torch.cat([image + words, first], dim=1)[: max(1, directions // 2)]
            order = ahead if directions == 1 else torch.cat([ahead, ahead.flip(1)])
        case "both_ends":
            order = torch.cat([first, image + words, first + words + height * width], dim=1)
    return order.int()
