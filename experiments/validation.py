"""What a validation is of: its numbers say nothing of each other where the tokens or latents, or what is asked of them,
are others. Torch-free."""

from __future__ import annotations

VALIDATION_TASK = frozenset(
    {
        # Images, and what becomes of them. Choices of the training images alone are none of these.
        *("data.fingerprint", "data.styles", "data.best_share", "data.score"),
        *("tokenizer.fingerprint", "tokenizer.image_size"),
        # What is hidden of tokens, and whether the condition is.
        *("objective.name", "objective.mask_ratio", "objective.mask_ratio_low", "objective.mask_ratio_high"),
        *("objective.mask_ratio_mean", "objective.mask_ratio_std", "objective.ratio_per"),
        "objective.validation_dropout",
        # What is estimated of noisy latents.
        "generator.prediction",
    }
)
"""Keys of the configuration that change what all quantities `val/..` are of, and not only how well a run does there."""


def is_validation(metric: str) -> bool:
    """Whether a quantity comes from the validations of a training."""
    return metric.startswith("val/")
