"""What can be measured, how each measure is called and read, and the settings of a measurement. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MetricSpec:
    """How one metric is shown. Values are stored in SI units and as plain fractions.

    Attributes:
        label: column header.
        better: which direction is an improvement.
        format: of the stored value.
        unit: of the stored value, empty for numbers without one.
        description: one sentence.
    """

    label: str
    better: Literal["lower", "higher", "none"]
    format: str
    unit: str
    description: str


METRICS: dict[str, MetricSpec] = {
    "fd_efflite0": MetricSpec(
        "FD-EffLite0",
        "lower",
        ".1f",
        "",
        "Fréchet distance of EfficientNet-Lite0 features; not comparable with any FID.",
    ),
    "kid_efflite0": MetricSpec(
        "KID-EffLite0", "lower", ".4f", "", "Unbiased squared MMD of EfficientNet-Lite0 features, cubic kernel."
    ),
    "kid_efflite0_std": MetricSpec(
        "KID-EffLite0 std", "none", ".4f", "", "Standard deviation of KID-EffLite0 over random subsets."
    ),
    "fid": MetricSpec("FID", "lower", ".2f", "", "Fréchet distance of Inception-v3 (2015-12-05) features."),
    "kid": MetricSpec("KID", "lower", ".5f", "", "Unbiased squared MMD of Inception-v3 features, cubic kernel."),
    "kid_std": MetricSpec("KID std", "none", ".5f", "", "Standard deviation of KID over random subsets."),
    "is": MetricSpec("IS", "higher", ".2f", "", "Inception score, mean over 10 splits."),
    "is_std": MetricSpec("IS std", "none", ".2f", "", "Standard deviation of the Inception score over 10 splits."),
    "memorisation_rate": MetricSpec(
        "Memorised", "lower", ".3f", "", "Share of samples nearer to a training image than 90 % of held-out images are."
    ),
    "seconds_per_image": MetricSpec("Time per image", "lower", ".4f", "s", "Sampling and decoding, per image."),
    "train/loss": MetricSpec("Train loss", "lower", ".3f", "nats", "Training objective at the last logged step."),
    "train/accuracy": MetricSpec("Train accuracy", "higher", ".3f", "", "Share of hidden tokens predicted, training."),
    "val/loss": MetricSpec("Val loss", "lower", ".3f", "nats", "Cross-entropy per hidden token, validation."),
    "val/bits_per_token": MetricSpec("Bits per token", "lower", ".3f", "bit", "Validation cross-entropy in bits."),
    "val/accuracy": MetricSpec("Val accuracy", "higher", ".3f", "", "Share of hidden tokens predicted, validation."),
    "val/psnr": MetricSpec("PSNR", "higher", ".2f", "dB", "Peak signal-to-noise ratio of reconstructions, validation."),
    "val/codebook_usage": MetricSpec("Codebook usage", "higher", ".3f", "", "Share of codes in use, validation."),
    "parameters": MetricSpec("Parameters", "none", ".3g", "", "Trainable parameters of the generator."),
    "flops": MetricSpec("FLOPs", "none", ".3g", "", "Floating-point operations of one forward pass, one image."),
    "train_seconds": MetricSpec("Training time", "lower", ".0f", "s", "Time in training steps, all attempts together."),
    "samples_per_s": MetricSpec("Training rate", "higher", ".0f", "1/s", "Training samples per second, median."),
    "peak_memory_bytes": MetricSpec("Peak memory", "lower", ".3g", "B", "Largest memory held while training."),
}


@dataclass
class MetricsConfig:
    """Settings of a measurement. Only `inception_weights`, `kid_subsets` and `seed` change its results."""

    inception_weights: str = ""
    """Local file of the 2015-12-05 Inception weights in torch-fidelity's layout; empty = no FID, KID and IS."""
    kid_subsets: int = 100
    seed: int = 0
    """Of the images drawn for the real-vs-real floor and of the subsets and splits."""
    cache_dir: str = "outputs/cache"
    """Where features of real images are kept, by content; empty = nowhere."""
    batch_size: int = 64
    device: str = "cpu"
