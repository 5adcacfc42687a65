"""LlamaGen: image tokens one after the other through a Llama-style Transformer (arXiv 2406.06525).

The sequence is condition, t_0 .. t_{L-2}; its last L positions predict t_0 .. t_{L-1}. Pre-norm RMSNorm, SwiGLU, 2-D
rotary positions, no biases, own output projection. Captions are padded behind their words, where the published code
pads in front (as AiM here): the first image token is predicted at the prefix's last place, be it padding; it sees every
word.

Shapes: B batch, L image tokens, T condition tokens (class: 1), S = T + L - 1 positions, C width, H heads of width E,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.base import TokenGenerator
from lightning_modules.generators.configs.llamagen import LlamaGenConfig
from lightning_modules.kernels import attend, linear, swiglu, transformer_decoder
from lightning_modules.layers.condition import Context, condition_tokens
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.module_list import ModuleList
from lightning_modules.layers.residual import Dropout, Residual, RMSNorm
from lightning_modules.layers.rotary import rotate, rotation_table
from lightning_modules.layers.stack import INIT_STD
from lightning_modules.precision import autocast_dtype, without_autocast

NORM_EPS = 1e-5


class LayerState(NamedTuple):
    """One layer while tokens are drawn: keys and values so far, and the weights in the dtype of decoding."""

    keys: Tensor  # (B, H, S, E)
    values: Tensor
    qkv: Tensor
    out_proj: Tensor
    gate_up: Tensor
    down: Tensor


class State(NamedTuple):
    """All that decoding keeps between tokens. Its tensors never change places, so a CUDA graph may hold them."""

    layers: list[LayerState]
    head: Tensor  # (V, C), in the dtype of decoding
    cursor: Tensor  # (1,) int64: the position that is written next
    visible: Tensor  # (B, 1, 1, S) bool: positions written so far, padding left out
    decode: Callable[[Tensor, Tensor, int], Tensor] | None
    """Embedded token (B, C), its rotation (E/2, 2), its position -> logits (B, V); None: layer by layer."""


class CausalAttention(nn.Module):
    """Multi-head attention of every position to itself and those before, with rotary positions; (B, S, C) -> same."""

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width, bias=False)
        self.out_proj = Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """rotation: (S, E/2, 2); mask: (B, 1, S, S) bool, None: causal -> output, keys and values (B, H, S, E)."""
        q, k, v = self._split(self.qkv(x), rotation)
        y = attend(q, k, v, mask, causal=mask is None)
        return self.out_proj(y.transpose(1, 2).flatten(2)), k, v

    def step(self, x: Tensor, rotation: Tensor, layer: LayerState, state: State) -> Tensor:
        """One position more, x: (B, 1, C), which the caller has made visible."""
        q, k, v = self._split(linear(x.to(layer.qkv.dtype), layer.qkv), rotation)
        layer.keys.index_copy_(2, state.cursor, k)
        layer.values.index_copy_(2, state.cursor, v)
        y = attend(q, layer.keys, layer.values, state.visible)
        return linear(y.transpose(1, 2).flatten(2), layer.out_proj)

    def _split(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotate(q, rotation), rotate(k, rotation), v


class SwiGLU(nn.Module):
    """down(silu(gate) * up), arXiv 2002.05202; gate and up from one product."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        return self.down(swiglu(self.gate_up(x)))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); dropout on both."""

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.norm = RMSNorm(config.width, NORM_EPS)
        self.attention = CausalAttention(config)
        self.mlp_norm = RMSNorm(config.width, NORM_EPS)
        self.mlp = SwiGLU(config.width, config.mlp_width)
        self.residual = Residual(config.dropout)

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """As `CausalAttention.forward`."""
        h, k, v = self.attention(self.norm(x), rotation, mask)
        x = self.residual(x, h)
        return self.residual(x, self.mlp(self.mlp_norm(x))), k, v

    def step(self, x: Tensor, rotation: Tensor, layer: LayerState, state: State) -> Tensor:
        """As `CausalAttention.step`."""
        x = x + self.attention.step(self.norm(x), rotation, layer, state)
        hidden = swiglu(linear(self.mlp_norm(x).to(layer.gate_up.dtype), layer.gate_up))
        return x + linear(hidden, layer.down)


class LlamaGen(TokenGenerator):
    """(tokens, context) -> logits, all at once in training, token by token with a KV cache in sampling."""

    config: LlamaGenConfig
    rotation: Tensor

    def __init__(self, config: LlamaGenConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.condition = condition_tokens(config)
        self.dropout = Dropout(config.dropout)
        self.layers: ModuleList[Layer] = ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, NORM_EPS)
        self.head = Linear(config.width, config.vocab_size, bias=False)
        table = rotation_table(
            config.grid_size,
            config.width // config.heads,
            config.rope_base,
            prefix=self.condition.tokens,
            prefix_rotation=config.prefix_rotation,
        )
        self.register_buffer("rotation", table, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear layers and tables normal(0, 0.02), the output projection zero: the first loss is ln V."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """tokens: (B, L) int64 -> logits (B, L, V): row i predicts token i from the condition and the tokens before."""
        x = torch.cat([context.embedding, self.token_embedding(tokens[:, :-1])], dim=1)
        mask, rotation = caption_mask(context, x.shape[1]), self.rotation[: x.shape[1]]
        x = self.dropout(x)
        for layer in self.layers:
            x, _, _ = self.run_layer(layer, x, rotation, mask)
        return self.head(self.norm(x[:, context.embedding.shape[1] - 1 :]))

    # --- one token after the other ---

    @torch.no_grad()
    def start(self, context: Context, length: int, batch: int, into: State | None = None) -> tuple[State, Tensor]:
        """Begin to draw: run the condition through the layers.

        Args:
            context: of `batch` samples.
            length: tokens to come; the cache holds that many positions from the beginning.
            into: state of an earlier `start` of the same weights, length and batch size, to be overwritten in place.

        Returns:
            state, and the logits (B, V) of token 0. The dtype of decoding is that of autocast at this moment.
        """
        prefix = context.embedding.shape[1]
        state = self._new_state(prefix + length - 1, batch) if into is None else into
        state.cursor.fill_(prefix)
        state.visible.fill_(False)
        state.visible[..., :prefix] = True if context.mask is None else context.mask[:, None, None]
        x, mask = context.embedding, caption_mask(context, prefix)
        for layer, kept in zip(self.layers, state.layers, strict=True):
            x, k, v = layer(x, self.rotation[:prefix], mask)
            kept.keys[:, :, :prefix] = k
            kept.values[:, :, :prefix] = v
        return state, linear(self.norm(x[:, -1]).to(state.head.dtype), state.head)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State, position: int | Tensor) -> Tensor:
        """Tokens (B,) that were drawn -> logits (B, V) of the next; `state` grows by one position, in place.

        position: of `tokens` in the grid, a number or an int64 tensor of one element (so that a CUDA graph can change
        it).
        """
        with without_autocast(tokens.device.type):
            x = F.embedding(tokens, self.token_embedding.weight)
            state.visible.index_fill_(-1, state.cursor, True)
            row = torch.as_tensor(position, device=tokens.device).reshape(1) + self.condition.tokens
            turn = self.rotation.index_select(0, row)
            if state.decode is not None:
                logits = state.decode(x, turn[0], int(state.cursor))
            else:
                x = x[:, None]
                for layer, layer_state in zip(self.layers, state.layers, strict=True):
                    x = layer.step(x, turn, layer_state, state)
                logits = linear(self.norm(x[:, 0]).to(state.head.dtype), state.head)
            state.cursor.add_(1)
            return logits

    def _new_state(self, positions: int, batch: int) -> State:
        weight = self.head.weight
        dtype = autocast_dtype(weight.device.type) or weight.dtype
        shape = (2, batch, self.config.heads, positions, self.config.width // self.config.heads)
        layers = []
        for layer in self.layers:
            parts = (layer.attention.qkv, layer.attention.out_proj, layer.mlp.gate_up, layer.mlp.down)
            weights = (part.weight.detach().to(dtype) for part in parts)
            layers.append(LayerState(*weight.new_zeros(shape, dtype=dtype).unbind(), *weights))
        head = weight.detach().to(dtype)
        cursor = torch.zeros(1, dtype=torch.long, device=weight.device)
        visible = torch.zeros(batch, 1, 1, positions, dtype=torch.bool, device=weight.device)
        tensors = [
            state._asdict() | {"norm": _wide(layer.norm), "mlp_norm": _wide(layer.mlp_norm)}
            for layer, state in zip(self.layers, layers, strict=True)
        ]
        decode = transformer_decoder(tensors, _wide(self.norm), head, visible, NORM_EPS)
        return State(layers, head, cursor, visible, decode)


def _wide(norm: nn.RMSNorm) -> Tensor:
    """Its weight, in float32 at least."""
    return norm.weight.detach().to(torch.promote_types(norm.weight.dtype, torch.float32))


def caption_mask(context: Context, positions: int) -> Tensor | None:
    """(B, 1, S, S): True where a query (row) sees a key (column); None: plainly causal, nothing is padded.

    A padded position still sees itself, so that no row is empty; image tokens do not see it.
    """
    if context.mask is None:
        return None
    causal = torch.ones(positions, positions, dtype=torch.bool, device=context.mask.device).tril()
    keys = F.pad(context.mask, (0, positions - context.mask.shape[1]), value=True)
    return (causal & keys[:, None, None]) | torch.eye(positions, dtype=torch.bool, device=causal.device)
