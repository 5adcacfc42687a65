"""What all generators of tokens whose condition is part of the sequence share.

Shapes: B batch, L image tokens, T condition tokens (class: 1), C width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.conditions import Condition
from lightning_modules.generators.configs.base import TokenGeneratorConfig
from lightning_modules.layers.condition import ClassCondition, Context, TextCondition, example_condition
from lightning_modules.layers.stack import LayerStack


class TokenGenerator(LayerStack):
    """(tokens, context) -> logits; a subclass makes `config` and `condition` and has a `forward`.

    One of masked tokens has a `mask_token`, the number that stands for a hidden one; an autoregressive one has `start`
    and `step`, which draw one token after the other.
    """

    config: TokenGeneratorConfig
    condition: ClassCondition | TextCondition

    def example_inputs(self) -> tuple[Tensor, Context]:
        """Arguments of `forward` for one sample, to count operations with."""
        tokens = torch.zeros(1, self.config.grid_size**2, dtype=torch.long)
        return tokens, self.embed_condition(example_condition(self.config), torch.zeros(1, dtype=torch.bool))

    def learned_positions(self, length: int) -> dict[str, int]:
        """Learned tables of positions, for images of `length` tokens.

        A table has a row for each token of the image in raster order and may have others, all in one piece, such as
        the condition's.

        Returns:
            the tables' keys in the state -> how many of the image's rows stand before the others.
        """
        return {}

    def embed_condition(self, condition: Condition, drop: Tensor) -> Context:
        """Labels (B,), or text features, and who goes without (B,) -> the context of `forward`."""
        return self.condition(condition, drop)

    def sampling_context(self, condition: Condition, drop: Tensor) -> Context:
        """As `embed_condition`, with all that `forward` would compute from the condition alone in every step: nothing,
        where the tokens beside it change what the layers make of it."""
        return self.embed_condition(condition, drop)
