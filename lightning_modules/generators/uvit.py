"""UViT, the network of aMUSEd (arXiv 2401.01808): diffusers' `UVit2DModel`, with its weights' published names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lightning_modules.generators.configs.muse import UViTConfig
from lightning_modules.generators.muse import Attend, Muse, MuseContext
from lightning_modules.layers.cross_attention import KeysValues


class UViT(Muse):
    """A stack of Transformer layers: self-attention, cross-attention to the words, gated feed-forward."""

    def __init__(self, config: UViTConfig):
        super().__init__(config, config.depth, config.ff_width)
        self.reset_parameters()

    def _projected(self, text: Tensor) -> Iterator[tuple[nn.Module, KeysValues]]:
        yield from super()._projected(text)
        for layer in self.amused.transformer_layers:
            yield layer.attn2, Attend.keys_values(layer.attn2, text)

    def stack(self, x: Tensor, context: MuseContext) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        mask = None if context.mask is None else context.mask[:, None]

        def run(layer: nn.Module, x: Tensor) -> Tensor:
            return layer(
                x,
                encoder_hidden_states=context.text,
                encoder_attention_mask=mask,
                added_cond_kwargs={"pooled_text_emb": context.pooled},
                cross_attention_kwargs={"projected": context.projected},
            )

        for layer in self.amused.transformer_layers:
            x = self.run_layer(run, layer, x)
        return x
