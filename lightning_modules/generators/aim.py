"""AiM: image tokens one after the other through Mamba-2 layers under adaptive layer norm (arXiv 2408.12245).

The sequence is condition, t_0, .., t_{L-2}; what comes out where token k - 1 goes in predicts token k. The residual
stream is float32 whatever the layers compute in.

Shapes: B batch, L image tokens, T condition tokens (class: 1), C width, N layers, V vocabulary, E text feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.conditions import Condition
from lightning_modules.generators.base import TokenGenerator
from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.kernels import linear, mamba2_decoder
from lightning_modules.layers.adaln import AdaLN
from lightning_modules.layers.condition import Context, condition_tokens
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.mamba2 import NORM_EPS, Mamba2, Mamba2State
from lightning_modules.layers.module_list import ModuleList
from lightning_modules.layers.residual import Dropout, Residual, RMSNorm
from lightning_modules.layers.stack import INIT_STD
from lightning_modules.precision import without_autocast


def _summary(context: Context) -> Tensor:
    """The input of the adaLN, (B, C): the class embedding, or the mean of a caption's tokens (padding is zero)."""
    count = 1 if context.mask is None else context.mask.sum(1, keepdim=True).clamp(min=1)
    return context.embedding.sum(1) / count


class LayerState(NamedTuple):
    """One layer while tokens are drawn: the mixer's memory, and its modulation with the norm's weight in the scale."""

    mixer: Mamba2State
    shift: Tensor  # (B, C)
    scale: Tensor  # (B, C)
    gate: Tensor  # (B, C)


class State(NamedTuple):
    """All that decoding keeps between tokens. Its tensors never change places, so a CUDA graph may hold them."""

    layers: list[LayerState]
    final_shift: Tensor  # (B, C)
    final_scale: Tensor  # (B, C)
    head: Tensor  # (V, C), in the dtype of decoding
    decode: Callable[[Tensor], Tensor] | None  # residual stream (B, C) -> logits (B, V); None: layer by layer


class Layer(nn.Module):
    """r + gate * mixer(norm(r) (1 + scale) + shift); no MLP."""

    def __init__(self, config: AiMConfig):
        super().__init__()
        self.norm = RMSNorm(config.width, NORM_EPS)
        self.mixer = Mamba2(config.width, config.mamba2)
        self.residual = Residual(config.dropout)

    def forward(
        self, r: Tensor, modulation: Tensor | None, mask: Tensor | None, state: Mamba2State | None = None
    ) -> Tensor:
        """r: (B, L, C) float32; modulation: (B, 3, C) or None; mask: (B, L) bool or None -> (B, L, C) float32."""
        shift, scale, gate = (None, None, None) if modulation is None else modulation.unbind(1)
        return self.residual(r, self.mixer(self.norm(r, shift, scale), mask, state), gate)

    def step(self, r: Tensor, state: LayerState) -> Tensor:
        """One position: r (B, C) -> (B, C)."""
        h = torch.addcmul(state.shift, F.rms_norm(r, r.shape[-1:], eps=NORM_EPS), state.scale)
        return torch.addcmul(r, state.gate, self.mixer.step(h, state.mixer).to(r.dtype))


class AiM(TokenGenerator):
    """(tokens, context) -> logits of all tokens at once (`forward`), or of one after the other (`start`, `step`)."""

    config: AiMConfig

    def __init__(self, config: AiMConfig):
        super().__init__()
        self.config = config
        width, length = config.width, config.grid_size**2
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        # One row more than tokens: the published sampling code reads one row behind (see `step`).
        self.position_embedding = nn.Embedding(length + 1, width) if config.position_embedding else None
        self.condition = condition_tokens(config)
        self.adaln = None
        if config.adaln != "none":
            self.adaln = AdaLN(
                width,
                config.depth,
                config.groups,
                vectors=3,
                tables=config.adaln != "per_layer",
                layout=config.adaln_layout,
                init=config.adaln_init,
            )
        self.dropout = Dropout(config.dropout)
        self.layers: ModuleList[Layer] = ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = RMSNorm(width, NORM_EPS)
        self.final_norm = RMSNorm(width, NORM_EPS)
        self.final_adaln = AdaLN(width, 1, 1, vectors=2, tables=False) if config.final_adaln else None
        self.head = None if config.tied_head else Linear(width, config.vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As published: tables normal(0, 0.02), output projections smaller by sqrt(N), the rest by the modules."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            elif isinstance(module, Mamba2):
                bound = (module.inner * self.config.depth) ** -0.5
                nn.init.uniform_(module.out_proj.weight, -bound, bound)

    def learned_positions(self, length: int) -> dict[str, int]:
        """See `TokenGenerator`; the row behind the image's is read by nobody, and nothing trains the image's last."""
        return {} if self.position_embedding is None else {"position_embedding.weight": length}

    def embed_condition(self, condition: Condition, drop: Tensor) -> Context:
        """Labels (B,), or text features, and who goes without (B,) -> the context of `forward` and `start`.

        Captions end where the image begins: padding precedes them, so no state fades between the two.
        """
        embedding, mask = self.condition(condition, drop)
        if mask is None:
            return Context(embedding, None)
        if self.config.caption_prefix == "mean":
            return Context(_summary(Context(embedding, mask))[:, None], None)
        order = mask.long().argsort(dim=1, stable=True)
        return Context(embedding.gather(1, order[..., None].expand_as(embedding)), mask.gather(1, order))

    # --- all tokens at once ---

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """Teacher forcing: tokens (B, L) int64 -> logits (B, L, V); logits[:, i] has seen tokens[:, :i]."""
        x = self.token_embedding(tokens[:, :-1])
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[: x.shape[1]]
        mask = None if context.mask is None else F.pad(context.mask, (0, x.shape[1]), value=True)
        summary, prefix = _summary(context), context.embedding
        x = self.dropout(torch.cat([prefix, x], dim=1))
        r = self._run(x, summary, mask)[:, prefix.shape[1] - 1 :]
        modulation = () if self.final_adaln is None else self.final_adaln(summary)[0].unbind(1)
        return linear(self.final_norm(self.norm(r), *modulation), self._head_weight)

    def _run(self, x: Tensor, summary: Tensor, mask: Tensor | None, states: list[LayerState] | None = None) -> Tensor:
        """Embedded sequence (B, L, C) -> residual stream after the last layer, (B, L, C), float32."""
        r = x.to(torch.promote_types(x.dtype, torch.float32))
        modulation = None if self.adaln is None else self.adaln(summary)
        for i, layer in enumerate(self.layers):
            own, state = None if modulation is None else modulation[i], None if states is None else states[i].mixer
            r = self.run_layer(layer, r, own, mask, state)
        return r

    @property
    def _head_weight(self) -> Tensor:
        return self.token_embedding.weight if self.head is None else self.head.weight

    # --- one token after the other ---

    @torch.no_grad()
    def start(self, context: Context, length: int, batch: int, into: State | None = None) -> tuple[State, Tensor]:
        """Begin to draw: let the condition in.

        Args:
            context: of `batch` samples.
            length: tokens to come; the state is of the same size whatever their number.
            into: state of an earlier `start` of the same weights and batch size, to be overwritten in place.

        Returns:
            state, and the logits (B, V) of token 0. The dtype of decoding is that of autocast at this moment.
        """
        state = self._new_state(batch) if into is None else into
        summary = _summary(context)
        self._fold(state, summary)
        r = self._run(context.embedding, summary, context.mask, state.layers)[:, -1]
        return state, self._logits(r, state)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State, position: int | Tensor) -> Tensor:
        """Tokens (B,) that were drawn -> logits (B, V) of the next; `state` moves on in place.

        position: row of the position table, a number or an int64 tensor of one element (so that a CUDA graph can
        change it). It is k for token k, as in training; the published sampling code gives k + 1.
        """
        with without_autocast(tokens.device.type):
            r = F.embedding(tokens, self.token_embedding.weight)
            if self.position_embedding is not None:
                rows = self.position_embedding.weight
                r = r + (rows[position] if isinstance(position, int) else F.embedding(position, rows))
            r = r.to(state.final_shift.dtype)
            if state.decode is not None:
                return state.decode(r)
            for layer, layer_state in zip(self.layers, state.layers, strict=True):
                r = layer.step(r, layer_state)
            return self._logits(r, state)

    def _new_state(self, batch: int) -> State:
        mixers = [layer.mixer.new_state(batch) for layer in self.layers]
        wide, width = mixers[0].ssm.dtype, self.config.width
        vectors = self.token_embedding.weight.new_empty(3 * len(mixers) + 2, batch, width, dtype=wide)
        layers = [LayerState(m, *vectors[3 * i : 3 * i + 3].unbind()) for i, m in enumerate(mixers)]
        head = self._head_weight.detach().to(mixers[0].window.dtype)
        tensors = [
            layer.mixer.decoding_tensors(s.mixer) | {"shift": s.shift, "scale": s.scale, "gate": s.gate}
            for layer, s in zip(self.layers, layers, strict=True)
        ]
        norm = self.norm.weight.detach().to(wide)
        decode = mamba2_decoder(tensors, norm, vectors[-2], vectors[-1], head, NORM_EPS)
        return State(layers, vectors[-2], vectors[-1], head, decode)

    def _fold(self, state: State, summary: Tensor) -> None:
        """Write the condition's modulation into the state, with the norms' weights in the scales."""
        modulation = None if self.adaln is None else self.adaln(summary)
        for i, (layer, s) in enumerate(zip(self.layers, state.layers, strict=True)):
            shift, scale, gate = (0.0, 0.0, 1.0) if modulation is None else modulation[i].unbind(1)
            for kept, value in ((s.shift, shift), (s.scale, (1 + scale) * layer.norm.weight), (s.gate, gate)):
                kept.copy_(torch.as_tensor(value))
        shift, scale = (0.0, 0.0) if self.final_adaln is None else self.final_adaln(summary)[0].unbind(1)
        state.final_shift.copy_(torch.as_tensor(shift))
        state.final_scale.copy_((1 + scale) * self.final_norm.weight)

    def _logits(self, r: Tensor, state: State) -> Tensor:
        h = F.rms_norm(self.norm(r), r.shape[-1:], eps=NORM_EPS)
        h = torch.addcmul(state.final_shift, h, state.final_scale)
        return linear(h.to(state.head.dtype), state.head)
