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


LEAST_IMAGES = 4
"""Samples, and real images, that a comparison needs: precision and recall look at the third neighbour of each."""
IS_LEAST = 50
"""Of fewer images no interval of the Inception score is told: none that was tried covers it."""

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
    "precision_efflite0": MetricSpec(
        "Precision-EffLite0",
        "higher",
        ".3f",
        "",
        "Share of samples in the k-NN manifold of real EfficientNet-Lite0 features.",
    ),
    "recall_efflite0": MetricSpec(
        "Recall-EffLite0",
        "higher",
        ".3f",
        "",
        "Share of real images in the k-NN manifold of the samples' EfficientNet-Lite0 features.",
    ),
    "class_accuracy_efflite0": MetricSpec(
        "Class accuracy",
        "higher",
        ".3f",
        "",
        "Share of samples that a linear probe on EfficientNet-Lite0 features takes for the class they were asked for.",
    ),
    "fid": MetricSpec("FID", "lower", ".2f", "", "Fréchet distance of Inception-v3 (2015-12-05) features."),
    "kid": MetricSpec("KID", "lower", ".5f", "", "Unbiased squared MMD of Inception-v3 features, cubic kernel."),
    "kid_std": MetricSpec("KID std", "none", ".5f", "", "Standard deviation of KID over random subsets."),
    "is": MetricSpec("IS", "higher", ".2f", "", "Inception score, mean over 10 splits."),
    "is_std": MetricSpec("IS std", "none", ".2f", "", "Standard deviation of the Inception score over 10 splits."),
    "sfid": MetricSpec("sFID", "lower", ".2f", "", "Fréchet distance of spatial Inception-v3 features (mixed_6/conv)."),
    "precision": MetricSpec(
        "Precision", "higher", ".3f", "", "Share of samples in the k-NN manifold of real Inception-v3 features."
    ),
    "recall": MetricSpec(
        "Recall", "higher", ".3f", "", "Share of real images in the k-NN manifold of samples' Inception-v3 features."
    ),
    "fd_dinov2": MetricSpec("FD-DINOv2", "lower", ".1f", "", "Fréchet distance of DINOv2 class tokens."),
    "clip_score": MetricSpec(
        "CLIP score", "higher", ".2f", "", "100 times the cosine of image and caption in the space of the CLIP named."
    ),
    "colour_distance": MetricSpec(
        "Colour distance", "lower", ".2f", "", "Wasserstein-1 distance of pixel values (0 to 255), mean over channels."
    ),
    "attribute_binding": MetricSpec(
        "Attribute binding",
        "higher",
        ".4f",
        "",
        "T2I-CompBench: BLIP-VQA's belief in every phrase of the caption; phrases are found by rules, not by spaCy.",
    ),
    "spatial_relations": MetricSpec(
        "Spatial relations",
        "higher",
        ".4f",
        "",
        "T2I-CompBench's rule on the boxes of the detector named, which is not its UniDet; not comparable with papers.",
    ),
    "memorisation_rate": MetricSpec(
        "Memorised", "lower", ".3f", "", "Share of samples nearer to a training image than 90 % of held-out images are."
    ),
    "seconds_per_image": MetricSpec(
        "Time per image",
        "lower",
        ".4f",
        "s",
        "Sampling, per image, at the pace of the median batch; of evaluations with decoding, of benchmarks without.",
    ),
    "train/loss": MetricSpec("Train loss", "lower", ".3f", "nats", "Training objective at the last logged step."),
    "train/accuracy": MetricSpec("Train accuracy", "higher", ".3f", "", "Share of target tokens predicted, training."),
    "val/loss": MetricSpec(
        "Val loss", "lower", ".3f", "nats", "Validation: cross-entropy per token; of diffusion, the squared error."
    ),
    "val/bound": MetricSpec(
        "Val bound", "lower", ".4f", "bit", "Variational bound of a diffusion step, per dimension."
    ),
    "val/bits_per_token": MetricSpec("Bits per token", "lower", ".3f", "bit", "Validation cross-entropy in bits."),
    "val/accuracy": MetricSpec("Val accuracy", "higher", ".3f", "", "Share of target tokens predicted, validation."),
    "val/psnr": MetricSpec("PSNR", "higher", ".2f", "dB", "Peak signal-to-noise ratio of reconstructions, validation."),
    "val/codebook_usage": MetricSpec("Codebook usage", "higher", ".3f", "", "Share of codes in use, validation."),
    "val/latent_std": MetricSpec("Latent std", "none", ".3g", "", "Standard deviation of latents, before scaling."),
    "parameters": MetricSpec("Parameters", "none", ".3g", "", "All parameters of the generator, tables included."),
    "non_embedding_parameters": MetricSpec(
        "Non-embedding parameters", "none", ".3g", "", "Parameters without the tables of tokens, positions and classes."
    ),
    "flops": MetricSpec("FLOPs", "none", ".3g", "", "Floating-point operations of one forward pass, one image."),
    "training_flops": MetricSpec(
        "Training FLOPs", "lower", ".3g", "", "Operations of all training steps; a backward pass counts as two forward."
    ),
    "kept_step": MetricSpec("Weights of step", "none", ".0f", "", "Step of the weights that samples are drawn from."),
    "train_seconds": MetricSpec("Training time", "lower", ".0f", "s", "Time in training steps, all attempts together."),
    "device_seconds": MetricSpec("Device time", "lower", ".0f", "s", "Wall time of all attempts, times devices held."),
    "samples_per_s": MetricSpec("Training rate", "higher", ".0f", "1/s", "Training samples per second, median."),
    "peak_memory_bytes": MetricSpec("Peak memory", "lower", ".3g", "B", "Largest memory held while it ran."),
    "images_per_s": MetricSpec("Images per second", "higher", ".3g", "1/s", "Sampling without decoding, per batch."),
    "step_seconds": MetricSpec("Time per step", "lower", ".4f", "s", "A training step, without loading and logging."),
    "forward_seconds": MetricSpec("Forward", "lower", ".5f", "s", "Forward pass of one layer, median."),
    "training_seconds": MetricSpec("Forward + backward", "lower", ".5f", "s", "Forward and backward of one layer."),
    "seconds_kernel": MetricSpec(
        "Kernel", "lower", ".5f", "s", "Scaled dot product of self-attention, or selective scan, alone."
    ),
    "seconds_self_attention": MetricSpec("Self-attention", "lower", ".5f", "s", "Self-attention with its projections."),
    "seconds_cross_attention": MetricSpec(
        "Cross-attention", "lower", ".5f", "s", "Cross-attention to the words, with its projections."
    ),
    "seconds_mixer": MetricSpec("Mixer", "lower", ".5f", "s", "Mamba mixer with projections, convolution and norm."),
    "seconds_layer": MetricSpec("Layer", "lower", ".5f", "s", "Forward pass of the first layer of the stack."),
    "seconds_stack": MetricSpec("Stack", "lower", ".4f", "s", "Forward pass of all layers."),
    "seconds_network": MetricSpec(
        "Network", "lower", ".4f", "s", "Forward pass of the whole generator, its condition given."
    ),
    "forward_memory_bytes": MetricSpec("Memory, forward", "lower", ".3g", "B", "Most held in a forward pass."),
    "training_memory_bytes": MetricSpec("Memory, training", "lower", ".3g", "B", "Most held in forward and backward."),
}
IN_PLACE_OF = {
    "fd_efflite0": "fid",
    "kid_efflite0": "kid",
    "precision_efflite0": "precision",
    "recall_efflite0": "recall",
}
"""Quantity of the embedded network's features -> the one of Inception's, which papers print."""
CAPTIONED = {
    "clip_score": "clip",
    "attribute_binding": "attribute_binding",
    "spatial_relations": "spatial_relations",
}
"""Metric of images beside their captions -> its section of the protocol."""
RESAMPLED = (
    "fd_efflite0",
    "kid_efflite0",
    "precision_efflite0",
    "recall_efflite0",
    "class_accuracy_efflite0",
    "memorisation_rate",
    "fid",
    "sfid",
    "is",
    "kid",
    "precision",
    "recall",
    "fd_dinov2",
    *CAPTIONED,
)
"""Metrics with a bootstrap interval of their sampling noise: `<metric>_low` to `<metric>_high`, 95 %."""
METRICS |= {
    f"{name}_{end}": MetricSpec(
        f"{METRICS[name].label} {end}",
        "none",
        METRICS[name].format,
        METRICS[name].unit,
        f"{word} end of the 95 % interval of {METRICS[name].label} over other samples of the same generator.",
    )
    for name in RESAMPLED
    for end, word in (("low", "Lower"), ("high", "Upper"))
}


@dataclass
class MetricsConfig:
    """Settings of a measurement. Device, batch size and cache do not change its results."""

    inception_weights: str = ""
    """Local file of the 2015-12-05 Inception weights in torch-fidelity's layout; empty = no FID, sFID and IS."""
    kid_subsets: int = 100
    seed: int = 0
    """Of the images drawn for the real-vs-real floor and of subsets, splits and resamples."""
    dinov2_weights: str = ""
    """Local file of DINOv2 weights as published; empty = no FD-DINOv2."""
    clip_weights: str = ""
    """Local folder of a CLIP; empty = no CLIP score."""
    blip_vqa_weights: str = ""
    """Local folder of a BLIP-VQA; empty = no attribute binding."""
    detector_weights: str = ""
    """Local folder of an OWL-ViT or OWLv2; empty = no spatial relations."""
    bootstrap: int = 200
    """Resamples behind the intervals; 0 = none."""
    cache_dir: str = "outputs/cache"
    """Where features of images are kept, by content; empty = nowhere."""
    batch_size: int = 64
    device: str = "cpu"
