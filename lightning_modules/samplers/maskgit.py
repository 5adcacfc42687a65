"""Parallel decoding by confidence (MaskGIT, arXiv 2202.04200, section 3.2; MaskMamba section 3.3).

Every step draws all masked tokens, ranks the draws by log probability plus annealed Gumbel noise, keeps the best and
masks the rest again. Known tokens are never touched. Ranks, not thresholds, decide, so that ties cannot change counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.conditions import Condition
from lightning_modules.samplers.config import MaskGITConfig
from lightning_modules.samplers.draw import draw_tokens
from lightning_modules.samplers.guidance import Guided, MaskedGenerator, guidance_scale
from lightning_modules.samplers.noise import Noise
from lightning_modules.samplers.schedule import masked_counts

DRAWS_PER_STEP = 2
"""Of noise, in all steps but the last: one for the tokens, one for their ranks."""


class MaskGIT:
    """See the module; `config` holds the settings."""

    def __init__(self, config: MaskGITConfig):
        self.config = config

    @torch.inference_mode()
    def __call__(
        self, generator: MaskedGenerator, condition: Condition, noise: Noise, known: Tensor | None = None
    ) -> Tensor:
        """Fill in the masked tokens.

        Args:
            generator: in eval mode.
            condition: of the B samples.
            noise: the batch's randomness.
            known: (B, L) int64, `generator.mask_token` where a token is to be drawn; the rest is known and stays.
                Every row has the same number of masked tokens. None: all are to be drawn.

        Returns:
            tokens (B, L) int64, without masks.
        """
        c = self.config
        guided = Guided(generator, condition, noise, c.guidance != 1, known)
        tokens = guided.tokens
        length = tokens.shape[1]
        masked = equal_count(tokens == generator.mask_token)
        for step, left in enumerate(masked_counts(c.schedule, c.steps, masked)):
            if masked == 0:
                break
            if left == masked:  # nothing to reveal: one token waits for the last step
                noise.skip(DRAWS_PER_STEP)
                continue
            progress = step / (c.steps - 1) if c.steps > 1 else 1.0  # a single step is the last
            logits = guided.logits(guidance_scale(c.guidance, c.guidance_schedule, progress))
            drawn, log_p = draw_tokens(logits, noise.uniform(length), c.temperature, c.top_k, c.top_p)
            unknown = tokens == generator.mask_token
            reveal = unknown
            if left:
                anneal = 1 - (step + 1) / c.steps if c.annealing == "maskgit" else 1 - progress
                confidence = log_p + c.confidence_noise * anneal * noise.gumbel(length)
                confidence = confidence.masked_fill(~unknown, -torch.inf)
                best = confidence.topk(masked - left, dim=-1).indices
                reveal = torch.zeros_like(unknown).scatter_(1, best, True)
            guided.reveal(reveal, drawn)
            masked = left
        return tokens


def equal_count(masked: Tensor) -> int:
    """The number of masked tokens, which must be the same in every row of (B, L).

    Raises:
        ValueError: it is not.
    """
    counts = masked.sum(-1)
    if not bool((counts == counts[0]).all()):
        raise ValueError("Every sample of a batch must have the same number of masked tokens; sample them one by one.")
    return int(counts[0])
