"""The pre-norm residual layer around a mixer, with or without an MLP."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.layers.attention import SelfAttention
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.residual import Residual

NORM_EPS = 1e-6


class MLP(nn.Sequential):
    """Linear, GELU, Linear; (B, L, C) -> (B, L, C)."""

    def __init__(self, width: int, ratio: float):
        hidden = round(width * ratio)
        super().__init__(Linear(width, hidden), nn.GELU(), Linear(hidden, width))


class Block(nn.Module):
    """x + drop(mixer(norm(x))), then x + drop(mlp(norm(x))) where `mlp_ratio` is not 0; (B, L, C) -> (B, L, C).

    Args:
        mask_padding: give the mixer the mask of padding too.
    """

    def __init__(self, width: int, mixer: nn.Module, mlp_ratio: float, dropout: float, mask_padding: bool = False):
        super().__init__()
        self.mask_padding = mask_padding
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mixer = mixer
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS) if mlp_ratio else None
        self.mlp = MLP(width, mlp_ratio) if mlp_ratio else None
        self.residual = Residual(dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """key_mask: (B, L) bool, False at padding. Attention always leaves padding out, other mixers with
        `mask_padding`."""
        h = self.norm(x)
        masks = self.mask_padding or isinstance(self.mixer, SelfAttention)
        h = self.mixer(h, key_mask) if masks else self.mixer(h)
        if h.shape != x.shape:  # the sum below would not name the mixer, and would broadcast a length of 1
            raise ValueError(
                f"The mixer {type(self.mixer).__name__} made {tuple(h.shape)} of {tuple(x.shape)}; a mixer keeps the "
                "shape (B, L, C)."
            )
        x = self.residual(x, h)
        if self.mlp is None or self.mlp_norm is None:
            return x
        return self.residual(x, self.mlp(self.mlp_norm(x)))
