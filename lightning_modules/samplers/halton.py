"""Parallel decoding in a fixed low-discrepancy order (Halton scheduler, arXiv 2503.17076).

Tokens that are drawn together lie far apart, so they share little information; there is no noise and no ranking.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from lightning_modules.conditions import Condition
from lightning_modules.samplers.config import HaltonConfig
from lightning_modules.samplers.draw import draw_tokens
from lightning_modules.samplers.guidance import Guided, MaskedGenerator, guidance_scale
from lightning_modules.samplers.maskgit import equal_count
from lightning_modules.samplers.noise import Noise
from lightning_modules.samplers.schedule import masked_share


class Halton:
    """See the module; `config` holds the settings."""

    def __init__(self, config: HaltonConfig):
        self.config = config

    @torch.inference_mode()
    def __call__(
        self, generator: MaskedGenerator, condition: Condition, noise: Noise, known: Tensor | None = None
    ) -> Tensor:
        """Fill in the masked tokens; arguments and result as for `MaskGIT`."""
        c = self.config
        guided = Guided(generator, condition, noise, c.guidance != 1, known)
        tokens = guided.tokens
        count, length = tokens.shape
        order = torch.tensor(halton_order(round(length**0.5)), device=tokens.device).expand(count, -1)
        if c.roll:
            offset = (noise.uniform(1) * length).long()
            order = order.gather(1, (torch.arange(length, device=tokens.device) + offset) % length)
        # Rank of every position among the masked ones, in the Halton order.
        masked_in_order = (tokens == generator.mask_token).gather(1, order)
        total = equal_count(masked_in_order)
        rank = torch.full_like(order, length)
        rank.scatter_(1, order, torch.where(masked_in_order, masked_in_order.cumsum(1) - 1, length))
        done, steps = 0, min(c.steps, total)
        for step in range(steps):
            target = int((1 - masked_share(c.schedule, (step + 1) / steps)) * total)
            target = max(done + 1, target) if step < steps - 1 else total
            progress = step / (steps - 1) if steps > 1 else 1.0  # a single step is the last
            logits = guided.logits(guidance_scale(c.guidance, c.guidance_schedule, progress))
            drawn, _ = draw_tokens(logits, noise.uniform(length), c.temperature, c.top_k, c.top_p)
            guided.reveal((rank >= done) & (rank < target), drawn)
            done = target
        return tokens


@lru_cache
def halton_order(side: int) -> list[int]:
    """All positions of a side x side grid in the order of the Halton sequence in bases 2 and 3, duplicates dropped."""
    seen: dict[int, None] = {}
    i = 0
    while len(seen) < side * side:
        i += 1
        seen[_place(i, 2, side) * side + _place(i, 3, side)] = None
    return list(seen)


def _place(i: int, base: int, side: int) -> int:
    """floor(side x), x the digits of i in `base` mirrored behind the point; in integers, as x may lie on an edge."""
    mirrored, scale = 0, 1
    while i:
        i, digit = divmod(i, base)
        mirrored, scale = mirrored * base + digit, scale * base
    return side * mirrored // scale
