"""What UViT (aMUSEd, arXiv 2401.01808) and M-Mamba share: diffusers' modules around the stack, and the text condition.

tokens -> table -> ConvNeXt blocks -> stack -> ConvNeXt blocks -> logits; no position enters but through convolutions
and scans. The condition is prepared once per sampling, where diffusers' model does it in every forward pass.

Shapes: B batch, L = grid ** 2 tokens, V vocabulary, T words, E their feature width, P pooled width, C stack width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.normalization import AdaLayerNormContinuous
from diffusers.models.unets.uvit_2d import ConvNextBlock, UVit2DModel
from torch import Tensor, nn

from lightning_modules.checkpoints import check_keys, read_weights
from lightning_modules.conditions import TextFeatures
from lightning_modules.generators.configs.muse import MuseConfig
from lightning_modules.kernels import attend
from lightning_modules.layers import linear
from lightning_modules.layers.cross_attention import KeysValues
from lightning_modules.layers.stack import INIT_STD, LayerStack
from lightning_modules.published.folders import part_weights

STACK = "transformer_layers."


class MuseContext(NamedTuple):
    """A caption as the network takes it."""

    text: Tensor  # (B, T, C)
    pooled: Tensor  # (B, C): pooled text and micro conditions
    mask: Tensor | None  # (B, T) bool, False at padding; None: padding is read like words
    projected: Mapping[nn.Module, KeysValues] | None = None
    """Of attentions that see `text` unchanged in every step; None: computed in `forward`."""


class NoAttention(nn.Module):
    """Stands in for the attention of an end that goes without."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """(B, L, C) -> the same."""
        return hidden_states


class Attend:
    """diffusers' attention through this suite's `attend`, which trains faster on a CPU in bfloat16."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        projected: Mapping[nn.Module, KeysValues] | None = None,
    ) -> Tensor:
        """hidden_states: (B, L, C) look at encoder_hidden_states (B, T, C), or at themselves; mask: (B, 1, T) bool;
        projected: where `attn` is in it, encoder_hidden_states is not looked at."""
        q = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        if projected is not None and attn in projected:
            k, v = projected[attn]
        else:
            k, v = self.keys_values(attn, hidden_states if encoder_hidden_states is None else encoder_hidden_states)
        y = attend(q, k, v, None if attention_mask is None else attention_mask[:, None])
        project, dropout = attn.to_out
        return dropout(project(y.transpose(1, 2).flatten(2)))

    @staticmethod
    def keys_values(attn: Any, source: Tensor) -> KeysValues:
        """What `attn` makes of (B, T, C)."""
        k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (attn.to_k(source), attn.to_v(source)))
        return KeysValues(k, v)


class Muse(LayerStack, ABC):
    """(tokens, context) -> logits. A subclass says what the stack is.

    Args:
        config: `pooled_width` 0 = captions have no pooled feature, the mean over their words is taken.
        layers: of `UVit2DModel`'s own stack.
        ff_width: inner width of their feed-forward layers.
    """

    micro: Tensor
    null_features: Tensor
    null_pooled: Tensor

    def __init__(self, config: MuseConfig, layers: int, ff_width: int):
        super().__init__()
        self.config = config
        self.mask_token = config.table_rows - 1
        pooled_width = config.pooled_width or config.text_width
        micro = torch.tensor(config.micro_conditions, dtype=torch.float32)
        self.amused = UVit2DModel(
            hidden_size=config.width,
            hidden_dropout=config.dropout,
            cond_embed_dim=pooled_width,
            micro_cond_encode_dim=config.micro_width,
            micro_cond_embed_dim=len(micro) * config.micro_width,
            encoder_hidden_size=config.text_width,
            vocab_size=config.table_rows,
            codebook_size=config.vocab_size,
            in_channels=config.embed_width,
            block_out_channels=config.end_width,
            num_res_blocks=config.end_blocks,
            downsample=config.resample,
            upsample=config.resample,
            block_num_heads=config.end_heads,
            num_hidden_layers=layers,
            num_attention_heads=config.heads,
            intermediate_size=ff_width,
            sample_size=config.grid_size,
        )
        self.amused.set_attn_processor(Attend())
        linear.adopt(self.amused)
        if config.ends == "conv":
            for end in (self.amused.down_block, self.amused.up_block):
                end.attention_blocks = nn.ModuleList(NoAttention() for _ in end.attention_blocks)
        encoded = get_timestep_embedding(micro, config.micro_width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.register_buffer("micro", encoded.flatten(), persistent=False)
        # The caption of the unconditional half of guidance. Zeros, which no projection moves, are a caption without
        # words; a published model was trained with its encoder's features of "".
        self.register_buffer("null_features", torch.zeros(config.text_tokens, config.text_width))
        self.register_buffer("null_pooled", torch.zeros(pooled_width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As open-muse starts aMUSEd: matrices normal(0, 0.02), the table's rows as the first output weights, adaptive
        scales and shifts at 0; SSMs and the mixers' convolutions keep their own start."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.amused.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=INIT_STD)
            elif isinstance(module, AdaLayerNormContinuous):
                nn.init.zeros_(module.linear.weight)
            elif isinstance(module, ConvNextBlock):
                nn.init.zeros_(module.cond_embeds_mapper.weight)
        table, last = self.amused.embed.embeddings.weight, self.amused.mlm_layer.conv2.weight
        nn.init.normal_(table, std=table.shape[0] ** -0.5)
        last.copy_(table[: last.shape[0], :, None, None])

    def load_published(self, folder: Path, stack: bool = True) -> None:
        """Load a published aMUSEd folder (diffusers' layout), all of it or, without `stack`, only the ends.

        Raises:
            FileNotFoundError, ValueError: no weights there; damaged, or those of another network.
        """
        file = part_weights(folder, "transformer", "generator.pretrained_ends=FOLDER")
        found, own = read_weights(file), self.amused.state_dict()
        if self.config.ends == "conv":
            found = {key: value for key, value in found.items() if ".attention_blocks." not in key}
        if not stack:
            found, own = ({k: v for k, v in state.items() if not k.startswith(STACK)} for state in (found, own))
        check_keys(file, found, own)
        self.amused.load_state_dict(found, strict=False)

    def start_from_published(self) -> None:
        """Before training: the ends from `config.pretrained_ends`, where one is named."""
        if self.config.pretrained_ends:
            self.load_published(Path(self.config.pretrained_ends), stack=False)

    @torch.no_grad()
    def set_null_caption(self, text: TextFeatures) -> None:
        """text: (1, T, E), the encoder's features of "", which stand in for dropped captions from now on."""
        self.null_features.copy_(text.features[0])
        self.null_pooled.copy_(self._pooled(text)[0])

    def example_inputs(self) -> tuple[Tensor, MuseContext]:
        """Arguments of `forward` for one sample, to count operations with."""
        c = self.config
        mask = torch.ones(1, c.text_tokens, dtype=torch.bool)
        pooled = torch.zeros(1, c.pooled_width) if c.pooled_width else None
        text = TextFeatures(torch.zeros(1, c.text_tokens, c.text_width), mask, pooled)
        context = self.embed_condition(text, torch.zeros(1, dtype=torch.bool))
        return torch.zeros(1, c.grid_size**2, dtype=torch.long), context

    def embed_condition(self, condition: TextFeatures, drop: Tensor) -> MuseContext:
        """Features of captions, and who goes without (B,) -> the context of `forward`."""
        features = torch.where(drop[:, None, None], self.null_features.to(condition.features.dtype), condition.features)
        pooled = self._pooled(condition)
        pooled = torch.where(drop[:, None], self.null_pooled.to(pooled.dtype), pooled)
        text = self.amused.encoder_proj_layer_norm(self.amused.encoder_proj(features))
        pooled = self.amused.cond_embed(torch.cat([pooled, self.micro.to(pooled.dtype).expand(len(pooled), -1)], dim=1))
        mask = None
        if self.config.mask_padding:
            # A dropped caption shows all its places, so that some are left to attend to.
            mask = condition.mask | drop[:, None]
        return MuseContext(text, pooled.to(text.dtype), mask)

    def sampling_context(self, condition: TextFeatures, drop: Tensor) -> MuseContext:
        """As `embed_condition`, with the keys and values that `forward` would compute from it in every step."""
        context = self.embed_condition(condition, drop)
        return context._replace(projected=dict(self._projected(context.text)))

    def _projected(self, text: Tensor) -> Iterator[tuple[nn.Module, KeysValues]]:
        """Every attention that sees the words (B, T, C) unchanged, with its keys and values."""
        for end in (self.amused.down_block, self.amused.up_block):
            for block in end.attention_blocks:
                if isinstance(block, NoAttention):
                    continue
                words = text if block.kv_mapper is None else block.kv_mapper(F.silu(text))
                for attn in (block.attn1, block.attn2):
                    yield attn, Attend.keys_values(attn, words)

    def _pooled(self, text: TextFeatures) -> Tensor:
        """(B, P): the encoder's pooled feature, or the mean over the words."""
        if self.config.pooled_width and text.pooled is not None:
            return text.pooled
        words = text.mask[..., None].to(text.features.dtype)
        return (text.features * words).sum(1) / words.sum(1).clamp(min=1)

    def forward(self, tokens: Tensor, context: MuseContext) -> Tensor:
        """tokens: (B, L) int64, `mask_token` where hidden -> logits (B, L, V)."""
        net, side = self.amused, self.config.grid_size
        x = self._end(net.down_block, net.embed(tokens.unflatten(1, (side, side))), context)
        height, width = x.shape[2:]
        x = net.project_to_hidden(net.project_to_hidden_norm(x.flatten(2).transpose(1, 2)))
        x = self.stack(x, context)
        x = net.project_from_hidden(net.project_from_hidden_norm(x))
        x = self._end(net.up_block, x.transpose(1, 2).unflatten(2, (height, width)).contiguous(), context)
        return net.mlm_layer(x).flatten(2).transpose(1, 2)

    @abstractmethod
    def stack(self, x: Tensor, context: MuseContext) -> Tensor:
        """(B, L', C) -> (B, L', C), L' = L or with `resample` L / 4."""

    def _end(self, block: nn.Module, x: Tensor, context: MuseContext) -> Tensor:
        mask = None if context.mask is None else context.mask[:, None]
        # Of words that are projected already none are left for diffusers' block to map.
        text = context.text if context.projected is None else context.text[:, :0]
        return block(x, context.pooled, text, {"attention_mask": mask, "projected": context.projected})
