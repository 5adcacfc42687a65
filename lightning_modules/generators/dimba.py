"""Dimba: patches of a noisy latent through Transformer and Mamba blocks, text by cross-attention.

Without Mamba blocks (attention_mamba_ratio=1:0) it is PixArt (arXiv 2310.00426).

Shapes: B batch, D latent channels, h x w latent, p patch side, L = h w / p^2 positions, C width, T text tokens,
E text feature width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.layers.adaln import AdaLN
from lightning_modules.layers.condition import example_condition
from lightning_modules.layers.cross_attention import KeysValues
from lightning_modules.layers.dimba_block import (
    MAMBA_VECTORS,
    TRANSFORMER_VECTORS,
    Head,
    MambaBlock,
    TransformerBlock,
    gelu_mlp,
)
from lightning_modules.layers.module_list import ModuleList
from lightning_modules.layers.positions import sincos_2d
from lightning_modules.layers.ssm import SelectiveSSM
from lightning_modules.layers.stack import INIT_STD, LayerStack, reset_linear_and_tables
from lightning_modules.layers.timestep import TimestepEmbedding


class Context(NamedTuple):
    """An embedded condition, computed once and used in every sampling step."""

    vector: Tensor | None = None  # (B, C), a class, added to the timestep
    text: Tensor | None = None  # (B, T, C), a caption, for cross-attention
    mask: Tensor | None = None  # (B, T) bool, False at padding
    projected: tuple[KeysValues, ...] | None = None  # of `text`, one per Transformer block; None: computed in `forward`


class ClassVector(nn.Module):
    """Class labels -> one vector each; the last row of the table is the null class."""

    def __init__(self, config: DimbaConfig):
        super().__init__()
        self.null = config.num_classes
        self.table = nn.Embedding(config.num_classes + 1, config.width)

    def forward(self, labels: Tensor, drop: Tensor) -> Context:
        """labels: (B,) int64; drop: (B,) bool, True where the condition is left out."""
        return Context(vector=self.table(torch.where(drop, self.null, labels)))


class TextTokens(nn.Module):
    """Text features -> T tokens. The null caption is a buffer that is not trained: random, or as loaded weights have it
    (the published ones hold the features of an empty text)."""

    null: Tensor

    def __init__(self, config: DimbaConfig):
        super().__init__()
        self.null_mask = config.null_mask
        self.register_buffer("null", torch.randn(config.text_tokens, config.text_width) * config.text_width**-0.5)
        self.project = gelu_mlp(config.text_width, config.width, config.width)

    def forward(self, text: TextFeatures, drop: Tensor) -> Context:
        """text: of the captions; drop: (B,) bool, True where the caption is left out."""
        features = torch.where(drop[:, None, None], self.null.to(text.features.dtype), text.features)
        mask = text.mask | drop[:, None] if self.null_mask == "full" else text.mask
        return Context(text=self.project(features), mask=mask)


def position_table(config: DimbaConfig) -> Tensor:
    """(L, C): what is added to the embedded patches."""
    side = config.grid_size // config.patch_size
    return sincos_2d(side, side, config.width, side, config.pe_interpolation)


def _adaln(config: DimbaConfig, blocks: int, vectors: int) -> AdaLN:
    groups = config.adaln_projections(blocks)
    return AdaLN(config.width, blocks, groups, vectors=vectors, tables=True, layout="contiguous", init="random")


class Dimba(LayerStack):
    """(noisy latents, context, timesteps) -> estimate of noise, velocity or flow, and of the variance if learned."""

    position: Tensor

    def __init__(self, config: DimbaConfig):
        super().__init__()
        self.config = config
        c, width, patch = config, config.width, config.patch_size
        self.patch_embed = nn.Conv2d(c.latent_channels, width, patch, stride=patch)
        self.time = TimestepEmbedding(width)
        self.condition = ClassVector(c) if c.condition == "class" else TextTokens(c)
        # All blocks are modulated from few shared projections, each by a table of its own (adaLN-single for G = 1).
        self.adaln = _adaln(c, c.depth, TRANSFORMER_VECTORS)
        self.mamba_adaln = _adaln(c, c.mamba_depth, MAMBA_VECTORS) if c.mamba_adaln and c.mamba_depth else None
        self.blocks: ModuleList[TransformerBlock] = ModuleList(TransformerBlock(c) for _ in range(c.depth))
        self.mamba_blocks: ModuleList[MambaBlock] = ModuleList(MambaBlock(c) for _ in range(c.mamba_depth))
        self.order = c.block_order()
        self.head = Head(width, patch**2 * c.out_channels)
        self.register_buffer("position", position_table(c), persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """PixArt's start: Linear Xavier-uniform, embeddings normal(0, 0.02), cross-attention and head closed.

        The patch embedding's bias is 0, as DiT has it; PixArt's code leaves it at PyTorch's start (init=official).
        """
        reset_linear_and_tables(self)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        assert self.patch_embed.bias is not None
        nn.init.zeros_(self.patch_embed.bias)
        nn.init.normal_(self.head.table, std=self.config.width**-0.5)
        embeddings = [self.time.mlp, *([self.condition.project] if isinstance(self.condition, TextTokens) else [])]
        for linear in (m for mlp in embeddings for m in mlp if isinstance(m, nn.Linear)):
            nn.init.normal_(linear.weight, std=INIT_STD)
        for adaln in filter(None, (self.adaln, self.mamba_adaln)):
            adaln.reset_parameters()
            nn.init.normal_(adaln.project.weight, std=INIT_STD)
        for block in self.blocks:
            if block.cross_attention is not None:
                nn.init.zeros_(block.cross_attention.out_proj.weight)
        nn.init.zeros_(self.head.linear.weight)
        if self.config.init == "official":
            self._reset_officially()

    def _reset_officially(self) -> None:
        """The published code's start: the patch embedding's bias as PyTorch has it; Xavier and zero bias for the SSM's
        projections; the last matrix of every Mamba block and every MLP, the caption's among them, as PyTorch has it,
        over the root of the number of Mamba blocks. Without such blocks the code is PixArt's: nothing shrinks."""
        assert self.patch_embed.bias is not None
        bound = self.patch_embed.weight[0].numel() ** -0.5
        nn.init.uniform_(self.patch_embed.bias, -bound, bound)
        for ssm in (m for m in self.modules() if isinstance(m, SelectiveSSM)):
            for matrices in (ssm.x_proj, ssm.dt_proj):
                for matrix in matrices:
                    nn.init.xavier_uniform_(matrix)
            nn.init.zeros_(ssm.dt_bias)
        if not self.mamba_blocks:
            return
        mlps = [block.mlp for block in self.blocks]
        if isinstance(self.condition, TextTokens):
            mlps.append(self.condition.project)
        for linear in (*(mlp[-1] for mlp in mlps), *(block.mixer.out_proj for block in self.mamba_blocks)):
            assert isinstance(linear, nn.Linear)
            nn.init.kaiming_uniform_(linear.weight, a=5**0.5)
            linear.weight /= len(self.mamba_blocks) ** 0.5

    def example_inputs(self) -> tuple[Tensor, Context, Tensor]:
        """Arguments of `forward` for one sample, to count operations with."""
        c = self.config
        latents = torch.zeros(1, c.latent_channels, c.grid_size, c.grid_size)
        context = self.embed_condition(example_condition(c), torch.zeros(1, dtype=torch.bool))
        return latents, context, torch.zeros(1)

    def embed_condition(self, condition: Condition, drop: Tensor) -> Context:
        """Labels (B,), or text features, and who goes without (B,) -> the context of `forward`."""
        return self.condition(condition, drop)

    def sampling_context(self, condition: Condition, drop: Tensor) -> Context:
        """As `embed_condition`, with all that `forward` would compute from the condition alone in every step."""
        context = self.embed_condition(condition, drop)
        if context.text is None:
            return context
        attentions = (block.cross_attention for block in self.blocks)
        return context._replace(projected=tuple(a.keys_values(context.text) for a in attentions if a is not None))

    def forward(self, latents: Tensor, context: Context, timesteps: Tensor) -> Tensor:
        """latents: (B, D, h, w) of any size that p divides; timesteps: (B,) in [0, 1000) -> (B, D or 2 D, h, w)."""
        height, width = (size // self.config.patch_size for size in latents.shape[-2:])
        t = self.time(timesteps)
        if context.vector is not None:
            t = t + context.vector
        x = self.patch_embed(latents).flatten(2).transpose(1, 2) + self._positions(height, width, latents)
        x = self._stack(x, self.adaln(t), None if self.mamba_adaln is None else self.mamba_adaln(t), context)
        return self._unpatch(self.head(x, t), height, width)

    def _stack(self, x: Tensor, modulation: Tensor, mamba_modulation: Tensor | None, context: Context) -> Tensor:
        """All blocks in their order. See `DimbaConfig.mamba_residual` for the two residual connections."""
        official, residual = self.config.mamba_residual == "official", None
        for kind, i in self.order:
            if kind == "transformer":
                text = context.text if context.projected is None else context.projected[i]
                x = self.run_layer(self.blocks[i], x, modulation[i], text, context.mask)
                continue
            extra = None if mamba_modulation is None else mamba_modulation[i]
            if official:
                residual = x.float() if residual is None else residual + x.float()
                x = self.run_layer(self.mamba_blocks[i], residual, extra).to(x.dtype)
            else:
                x = x + self.run_layer(self.mamba_blocks[i], x, extra)
        return x

    def _positions(self, height: int, width: int, like: Tensor) -> Tensor:
        """(L, C): of the model's own grid, or computed anew for another one."""
        side = self.config.grid_size // self.config.patch_size
        if (height, width) == (side, side):
            return self.position
        table = sincos_2d(height, width, self.config.width, side, self.config.pe_interpolation)
        return table.to(like.device)

    def _unpatch(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, L, p p D') -> (B, D', h, w); within a patch: row, column, channel."""
        patch = self.config.patch_size
        x = x.reshape(len(x), height, width, patch * patch, -1).permute(0, 4, 3, 1, 2)  # (B, D', p p, h/p, w/p)
        return F.pixel_shuffle(x.flatten(1, 2), patch)
