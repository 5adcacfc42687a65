"""Configurations of the training objectives and the optimiser. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lightning_modules.bounds import check_least, check_positive, check_share
from lightning_modules.registry import Entry, Registry


@dataclass
class MaskedConfig:
    """Masked-token modelling (MaskGIT; MaskMamba section 3.1): cross-entropy on tokens hidden at random."""

    name: str = "masked"
    validates: ClassVar[tuple[str, ...]] = ("val/loss", "val/bits_per_token", "val/accuracy")
    """What a validation measures."""
    mask_ratio: Literal["mage", "uniform", "cosine"] = "mage"
    """Distribution of the masked share: `mage` truncated normal(mean, std) on [low, high] (arXiv 2211.09117),
    `uniform` on [low, high], `cosine` cos(pi/2 u) (MaskGIT, MUSE)."""
    mask_ratio_low: float = 0.5
    """Least share of masked tokens; not of `cosine`."""
    mask_ratio_high: float = 1.0
    """Largest share of masked tokens; not of `cosine`."""
    mask_ratio_mean: float = 0.55
    """Mean of the normal distribution that `mage` truncates."""
    mask_ratio_std: float = 0.25
    """Its standard deviation."""
    ratio_per: Literal["batch", "sample"] = "batch"
    """One masked share for the whole batch (MAGE) or one for every sample (MUSE)."""
    loss_on: Literal["masked", "all"] = "masked"
    """Tokens that the cross-entropy is taken of: those that were masked, or all."""
    label_smoothing: float = 0.1
    """Probability that the target of the cross-entropy shares out among all codes."""
    condition_dropout: float = 0.1
    """Share of samples trained without their condition, for classifier-free guidance."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio_low < self.mask_ratio_high <= 1:
            raise ValueError(
                f"objective.mask_ratio_low={self.mask_ratio_low} and mask_ratio_high={self.mask_ratio_high} must "
                "satisfy 0 <= low < high <= 1."
            )
        check_positive(self, "objective", "mask_ratio_std")
        if self.mask_ratio == "mage" and not self.mask_ratio_low <= self.mask_ratio_mean <= self.mask_ratio_high:
            raise ValueError(
                f"objective.mask_ratio_mean={self.mask_ratio_mean} must be in "
                f"[mask_ratio_low, mask_ratio_high] = [{self.mask_ratio_low}, {self.mask_ratio_high}]."
            )
        check_share(self, "objective", "label_smoothing", "condition_dropout")


@dataclass
class AutoregressiveConfig:
    """Next-token prediction in raster order (LlamaGen; AiM section 3): cross-entropy on every token."""

    name: str = "autoregressive"
    validates: ClassVar[tuple[str, ...]] = ("val/loss", "val/bits_per_token", "val/accuracy")
    label_smoothing: float = 0.0
    """Probability that the target of the cross-entropy shares out among all codes."""
    condition_dropout: float = 0.1
    """Share of samples trained without their condition, for classifier-free guidance."""
    validation_dropout: float = 0.0
    """Share of samples validated without their condition; AiM's published code validates as it trains, with 0.1."""

    def __post_init__(self) -> None:
        check_share(self, "objective", "label_smoothing", "condition_dropout", "validation_dropout")


@dataclass
class DiffusionConfig:
    """Diffusion of latents (IDDPM, arXiv 2102.09672). What the network estimates is `generator.prediction`."""

    name: str = "diffusion"
    validates: ClassVar[tuple[str, ...]] = ("val/loss", "val/bound")
    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of training times: uniform, or more in the middle (arXiv 2403.03206, section 3.1)."""
    variance_weight: float = 1.0
    """Weight of the variational bound (bits per dimension) that trains a learned variance, beside the squared error."""
    condition_dropout: float = 0.1
    """Share of samples trained without their condition, for classifier-free guidance."""

    def __post_init__(self) -> None:
        check_share(self, "objective", "condition_dropout")
        check_least(self, "objective", variance_weight=0)


@dataclass
class ReconstructionConfig:
    """Stage 1: train the tokenizer itself, VQ (VQGAN, arXiv 2012.09841) or KL (latent diffusion, 2112.10752)."""

    name: str = "reconstruction"
    validates: ClassVar[tuple[str, ...]] = ("val/psnr", "val/codebook_usage")
    edge_weight: float = 1.0
    """Weight of the mean absolute error of neighbouring-pixel differences, beside the mean absolute pixel error. It
    keeps outlines sharp without a pretrained network, so that no metric's feature extractor is trained against."""
    commitment_weight: float = 0.25
    """Weight of the squared distance that draws latents to their codes (VQ)."""
    codebook_weight: float = 1.0
    """Weight of the squared distance that draws codes to their latents (VQ)."""
    kl_weight: float = 1e-3
    """Weight of the mean divergence of a latent, in nats, of KL autoencoders."""
    revive_every: int = 100
    """Every so many steps, codes unused since the last time are re-drawn from the batch's latents; 0 = never."""
    shift: int = 2
    """Augmentation: images are moved by up to so many pixels each way, the edge repeated."""

    def __post_init__(self) -> None:
        check_least(self, "objective", edge_weight=0, commitment_weight=0, codebook_weight=0, kl_weight=0)
        check_least(self, "objective", revive_every=0, shift=0)


@dataclass
class OptimConfig:
    """The optimiser and its schedule."""

    optimizer: Literal["adamw", "came"] = "adamw"
    """AdamW, or CAME (arXiv 2307.02047), whose second moments are stored as sums over rows and columns."""
    lr: float = 4e-4
    """Peak learning rate (papers quote 1e-4 per 256 samples of batch)."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay of the two moments; CAME has a third, of its confidence: [0.9, 0.999, 0.9999]."""
    weight_decay: float = 0.05
    """On parameters of two or more dimensions: matrices, kernels, tables of tokens, and the response norms of aMUSEd's
    ends. Biases, all other norms, tables of positions, and A, D, dt of the SSMs are exempt."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly to `lr`."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: constant, or falling to 0 at the last step."""
    gradient_clip: float = 1.0
    """Largest global gradient norm; 0 = no clipping."""

    def __post_init__(self) -> None:
        check_positive(self, "optim", "lr")
        check_least(self, "optim", weight_decay=0, warmup_steps=0, gradient_clip=0)
        usual = {"adamw": [0.9, 0.95], "came": [0.9, 0.999, 0.9999]}[self.optimizer]
        if len(self.betas) != len(usual) or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"optim.betas={self.betas} must be {len(usual)} numbers in [0, 1) for {self.optimizer}, "
                f"such as {usual}."
            )


OBJECTIVES = Registry(
    "objective",
    {
        "masked": Entry(MaskedConfig, "lightning_modules.masked:MaskedModule"),
        "autoregressive": Entry(AutoregressiveConfig, "lightning_modules.autoregressive:AutoregressiveModule"),
        "diffusion": Entry(DiffusionConfig, "lightning_modules.diffusion:DiffusionModule"),
        "reconstruction": Entry(ReconstructionConfig, "lightning_modules.tokenizer:tokenizer_module"),
    },
)
