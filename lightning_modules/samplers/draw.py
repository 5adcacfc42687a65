"""Drawing tokens from logits: temperature, top-k, top-p, and the inverse of the cumulative distribution.

Shapes: B batch, L positions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Set everything but the likeliest tokens to -inf: the `top_k` best (ties kept; 0 = all), then the smallest set
    that holds `top_p` of what is left (the best always stays). logits: (..., V) -> (..., V)."""
    if 0 < top_k < logits.shape[-1]:
        worst = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < worst, -torch.inf)
    if top_p < 1:
        ascending, order = logits.sort(dim=-1)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        cut[..., -1] = False
        logits = logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    return logits


def draw_tokens(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw one token per position.

    Args:
        logits: (B, L, V).
        uniform: (B, L) in (0, 1): the token is where the cumulative distribution passes it.
        temperature: 0 = the likeliest token.

    Returns:
        tokens (B, L) int64, and their log probability (B, L) under the distribution that they were drawn from.
    """
    logits = logits.float()
    if temperature == 0:
        log_p, tokens = logits.log_softmax(-1).max(-1)
        return tokens, log_p
    logits = filter_logits(logits if temperature == 1 else logits / temperature, top_k, top_p)
    log_p = logits.log_softmax(-1)
    cumulative = log_p.exp().cumsum(-1)
    total = cumulative[..., -1:]  # differs from 1 by rounding
    # Strictly below the total, or a draw close to 1 would land behind the last token that is allowed.
    target = torch.minimum(uniform[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    return tokens[..., 0], log_p.gather(-1, tokens)[..., 0]
