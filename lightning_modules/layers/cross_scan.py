"""Cross-scan mixer over words and image: VMamba's SS2D (arXiv 2401.10166, section 4.2) with text (M-Mamba, slide 11).

Every direction scans [words, image along its own path] with an SSM of its own. The directions share the projections
in and out and the gate; the image's outputs are summed, the words' merged. One call scans all directions, by their
order of visits: the image is never copied into the four orders.

Shapes: B batch, T words, L = H W image positions, S = T + L (2 T + L with words at both ends), K directions,
C width, D inner width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.layers.config import CrossScanConfig
from lightning_modules.layers.conv import ShortConv
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.scan_order import scan_orders
from lightning_modules.layers.ssm import SelectiveSSM

TAPS = 4
NORM_EPS = 1e-5


class CrossScan(nn.Module):
    """words (B, T, C), image (B, L, C) -> the same; with `cross_scan.text=none` the words are not touched.

    Args:
        width: C.
        config: see `CrossScanConfig`; with `text=none` the defaults are VMamba's SS2D.
        grid: H, W.
        words: T.
        read: the words' output is used. Where it is not, a mean takes the place of `text_merge=linear`, which would
            have parameters that nothing trains.
    """

    order: Tensor
    """int32 (K, S), the position that each direction visits at each step."""

    def __init__(self, width: int, config: CrossScanConfig, grid: tuple[int, int], words: int, read: bool = True):
        super().__init__()
        inner, count = round(width * config.expand), config.directions
        self.config = config
        self.grid = grid
        self.words = 0 if config.text == "none" else words
        self.in_proj = Linear(width, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner) if config.conv == "depthwise_2d" else None
        self.conv1d = ShortConv(inner, TAPS, "causal") if config.conv == "causal_1d" else None
        self.ssm = SelectiveSSM(
            inner,
            config.d_state,
            ["forward"] * count,
            model_width=width,
            share_projections=config.share_ssm,
            share_decay=config.share_ssm,
        )
        self.merge = "mean" if config.text_merge == "linear" and not read else config.text_merge
        linear = self.merge == "linear" and self.words
        self.merge_words = Linear(count * inner, inner, bias=False) if linear else None
        self.gate = Linear(width, inner, bias=False) if config.gate else None
        self.gate_pooled = Linear(width, inner) if config.gate else None
        self.norm = nn.LayerNorm(inner, eps=NORM_EPS)
        self.out_proj = Linear(inner, width, bias=False)
        self.register_buffer("order", scan_orders(*grid, count, self.words, config.text), persistent=False)

    def forward(
        self, text: Tensor, image: Tensor, pooled: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """text: (B, T, C), image: (B, L, C); pooled: (B, C), read by the gate; mask: (B, T) bool, False at padding."""
        joined = torch.cat([text, image], dim=1) if self.words else image
        x, z = self.in_proj(joined).chunk(2, dim=-1)
        y = self._merge(*self._scan(self._convolve(x, mask), joined, pooled, mask))
        y = self.out_proj(self.norm(y) * F.silu(z))
        return (y[:, : self.words], y[:, self.words :]) if self.words else (text, y)

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T + L, D) -> silu(convolved) (B, S, D), or (B, K, S, D) where every direction has its own sequence."""
        if self.conv2d is not None:
            picture = x[:, self.words :].transpose(1, 2).unflatten(2, self.grid)
            x = torch.cat([x[:, : self.words], self.conv2d(picture).flatten(2).transpose(1, 2)], dim=1)
        if self.conv1d is not None and mask is not None and self.words:  # whose taps would reach over the padding
            x = x * F.pad(mask, (0, x.shape[1] - self.words), value=True)[..., None]
        if self.config.text == "both_ends":
            x = torch.cat([x, x[:, : self.words]], dim=1)
        if self.conv1d is None:
            return F.silu(x)
        order = self.order.long()
        sequences = x[:, order]  # the convolution runs along each path, so it needs a copy in each order
        return self.conv1d(sequences.flatten(0, 1)).view_as(sequences).gather(2, _index(order.argsort(1), sequences))

    def _scan(self, x: Tensor, joined: Tensor, pooled: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """-> words' outputs (B, K or 1, S - L, D), image's (B, L, D), summed over the directions."""
        skip = None
        if mask is not None and self.words:
            skip = F.pad(~mask, (0, self.grid[0] * self.grid[1]))
            skip = torch.cat([skip, ~mask], dim=1) if self.config.text == "both_ends" else skip
        # The sum needs no output per direction; what is done to the words' sum is done afterwards.
        stack = bool(self.words) and self.merge in ("first", "linear")
        options = {"order": self.order, "merge": "stack" if stack else "sum", "skip": skip}
        if self.gate is None or self.gate_pooled is None:
            y = self.ssm(x, **options)
        else:
            is_word = torch.arange(x.shape[-2], device=x.device)[None] < self.words
            read, own = self.ssm(x, **options, sources=[is_word, ~is_word])
            scale = torch.sigmoid(self.gate(joined) + self.gate_pooled(pooled)[:, None])
            scale = torch.where(is_word[..., None], 1.0, scale)
            y = own + read * (scale[:, None] if stack else scale)
        y = y if stack else y[:, None]
        length = joined.shape[1]
        words = torch.cat([y[:, :, : self.words], y[:, :, length:]], dim=2)
        return words, y[:, :, self.words : length].sum(1)

    def _merge(self, words: Tensor, image: Tensor) -> Tensor:
        """Words' outputs of all directions and both ends, and the image's -> (B, T + L, D)."""
        if not self.words:
            return image
        match self.merge:
            case "mean":
                merged = words.sum(1) / self.config.directions
            case "first":
                merged = words[:, 0]
            case "linear":
                assert self.merge_words is not None
                merged = self.merge_words(words.transpose(1, 2).flatten(2))
        if self.config.text == "both_ends":
            merged = (merged[:, : self.words] + merged[:, self.words :]) / 2
        return torch.cat([merged, image], dim=1)


def _index(order: Tensor, like: Tensor) -> Tensor:
    """(K, S) -> what `gather` along dimension 2 of (B, K, S, D) needs."""
    return order[None, :, :, None].expand_as(like)
