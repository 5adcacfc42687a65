"""DINOv2 vision transformers (Oquab et al. 2023), whose features FD-DINOv2 compares (Stein et al. 2023), from a file.

The file is one of those published beside the paper (dinov2_vits14_pretrain.pth, vitb14, vitl14; FD-DINOv2 is defined
with ViT-L/14); width and depth are read off its weights. Nothing is ever downloaded.

Shapes: B batch, H x W pixels, L patches, D features.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER = "cls"
INPUT_SIZE, PATCH, HEAD_WIDTH = 224, 14, 64
RESIZE = f"bicubic to {INPUT_SIZE}x{INPUT_SIZE}, antialiased, clamped to [0, 255]; ImageNet mean and deviation"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = {384: "dinov2-vit-s-14", 768: "dinov2-vit-b-14", 1024: "dinov2-vit-l-14"}
"""By width, as torch-fidelity calls them."""
OFFSET = 0.1
"""Added by the published code to the number of patches before it scales the position embedding."""


class Scale(nn.Module):
    """Learned factor for each channel (LayerScale)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention with heads of 64 channels."""

    def __init__(self, width: int):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.ls1, self.ls2 = Attention(width), Scale(width), Scale(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class DINOv2(nn.Module):
    """The class token after the last layer norm, of images of any size brought to 224 x 224.

    Args:
        width, depth: of the transformer.
        grid: side of the grid of position embeddings in the weights (37 as published: trained at 518 pixels).
    """

    features_list = (LAYER,)

    def __init__(self, width: int, depth: int, grid: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of pre-training; in the file, without effect here
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """images: (B, 3, H, W) uint8 -> ((B, D) float32,)."""
        size = (INPUT_SIZE, INPUT_SIZE)
        x = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
        mean, deviation = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        patches = self.patch_embed["proj"]((x.clamp(0, 255) / 255 - mean) / deviation)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(patches.shape[-1])
        for block in self.blocks:
            x = block(x)
        return (self.norm(x)[:, 0],)

    def positions(self, side: int) -> Tensor:
        """Position embedding of the class token and a side x side grid of patches: (1, 1 + side^2, D)."""
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = round(rest.shape[1] ** 0.5)
        if grid == side:
            return self.pos_embed
        factor = (side + OFFSET) / grid
        rest = rest.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        rest = F.interpolate(rest, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([first, rest.flatten(2).transpose(1, 2)], dim=1)


def load_dinov2(path: Path) -> DINOv2:
    """The network with weights from a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of weights, or of another network, such as one with registers or the giant one.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"DINOv2 weights {path} not found; leave evaluation.dinov2_weights empty to go without FD-DINOv2."
        )
    expected = "expected dinov2_vits14_pretrain.pth, dinov2_vitb14_pretrain.pth or dinov2_vitl14_pretrain.pth"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a file of PyTorch weights; {expected}.") from error
    position = weights.get("pos_embed") if isinstance(weights, dict) else None
    if not torch.is_tensor(position) or position.ndim != 3 or position.shape[-1] % HEAD_WIDTH:
        raise ValueError(f"{path} does not hold the weights of a DINOv2 transformer; {expected}.")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    network = DINOv2(position.shape[-1], depth, round((position.shape[1] - 1) ** 0.5))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network than DINOv2 ViT-S/B/L; {expected}.") from error
    return network
