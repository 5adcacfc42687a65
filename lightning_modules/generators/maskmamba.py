"""MaskMamba: masked image tokens through a hybrid of Mamba and Transformer layers (arXiv 2409.19937).

The sequence is q_1 .. q_i, condition, q_{i+1} .. q_L; positions are added after the condition is put in (section 3.1).

Shapes: B batch, L image tokens, T condition tokens (class: 1), C width, V vocabulary, E text feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.generators.base import TokenGenerator
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.kernels import linear
from lightning_modules.layers.block import NORM_EPS
from lightning_modules.layers.condition import Context, condition_tokens
from lightning_modules.layers.hybrid import build_layers
from lightning_modules.layers.linear import Linear
from lightning_modules.layers.residual import Dropout
from lightning_modules.layers.stack import INIT_STD, reset_linear_and_tables


class MaskMamba(TokenGenerator):
    """(tokens, context) -> logits. With mixer=attention and hybrid_scheme=uniform it is the masked Transformer."""

    config: MaskMambaConfig

    def __init__(self, config: MaskMambaConfig):
        super().__init__()
        self.config = config
        length, width = config.grid_size**2, config.width
        self.mask_token = config.vocab_size  # the extra row of the token table
        self.token_embedding = nn.Embedding(config.vocab_size + 1, width)
        self.condition = condition_tokens(config)
        count = self.condition.tokens
        self.start = self._start(length)
        if config.position_tables == "separate":
            self.position_image = nn.Parameter(torch.empty(length, width))
            self.position_condition = nn.Parameter(torch.empty(count, width))
        else:
            self.position_sequence = nn.Parameter(torch.empty(length + count, width))
        self.embedding_norm = nn.LayerNorm(width, eps=NORM_EPS) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.layers = build_layers(config)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = None if config.tied_head else Linear(width, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear layers Xavier-uniform with zero bias, tables normal(0, 0.02); SSMs and convolutions keep their own."""
        reset_linear_and_tables(self)
        for name, parameter in self.named_parameters():
            if name.startswith("position_"):
                nn.init.normal_(parameter, std=INIT_STD)

    def _start(self, length: int) -> int:
        """The condition's place in the sequence, with `length` tokens of the image."""
        return {"head": 0, "middle": length // 2, "tail": length}[self.config.condition_position]

    def learned_positions(self, length: int) -> dict[str, int]:
        """See `TokenGenerator`: a shared table has the condition's rows where the condition stands."""
        if self.config.position_tables == "separate":
            return {"position_image": length}
        return {"position_sequence": self._start(length)}

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """tokens: (B, L) int64, `mask_token` where hidden -> logits (B, L, V)."""
        x = self.token_embedding(tokens)
        split, count = self.start, context.embedding.shape[1]
        if self.config.position_tables == "separate":
            x = x + self.position_image
            extra = context.embedding + self.position_condition
            x = torch.cat([x[:, :split], extra, x[:, split:]], dim=1)
        else:
            x = torch.cat([x[:, :split], context.embedding, x[:, split:]], dim=1) + self.position_sequence
        x = self.dropout(self.embedding_norm(x))
        key_mask = None
        if context.mask is not None:
            seen = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
            key_mask = torch.cat([seen[:, :split], context.mask, seen[:, split:]], dim=1)
        for layer in self.layers:
            x = self.run_layer(layer, x, key_mask)
        x = self.norm(torch.cat([x[:, :split], x[:, split + count :]], dim=1))
        weight = self.token_embedding.weight[: self.config.vocab_size] if self.head is None else self.head.weight
        return linear(x, weight, self.head_bias.to(x.dtype))
