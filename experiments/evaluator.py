"""What measures the images of one evaluation: what they are compared with, and the networks that compare.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.config import DATASETS
from experiments.checks import evaluation_data
from experiments.conditions import Conditions
from experiments.process import device_of
from experiments.run_config import RunConfig
from lightning_modules.metrics.against import check_statistics, evaluate_against
from lightning_modules.metrics.caption_scores import load_scorers, with_caption_scores
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.evaluate import check_reference, evaluate_images
from lightning_modules.metrics.features import Extractor
from lightning_modules.metrics.local_model import LocalModel
from lightning_modules.metrics.measurement import Measurement, make_extractors
from lightning_modules.metrics.reference import ReferenceSet
from lightning_modules.metrics.statistics import ReferenceStatistics, read_statistics


@dataclass(frozen=True)
class Evaluator:
    """Measures images as a configuration says; made, and so checked, before there are any.

    Attributes:
        reference: what samples are measured against; None where the captions are somebody's own.
        extractors: of features, by their section of the protocol.
        scorers: of images beside captions, by theirs.
        classes: names of the classes that samples are asked for by, in label order; empty where there are none.
    """

    settings: MetricsConfig
    reference: ReferenceSet | ReferenceStatistics | None
    extractors: Mapping[str, Extractor]
    scorers: Mapping[str, LocalModel]
    classes: tuple[str, ...]

    def measure(self, images: np.ndarray, conditions: Conditions) -> Measurement:
        """Measure images (N, H, W, 3) uint8 that were drawn under N conditions."""
        settings, reference = self.settings, self.reference
        if reference is None:
            measured = Measurement({}, {"reference": "none: captions alone", "seed": settings.seed}, {})
        elif isinstance(reference, ReferenceStatistics):
            measured = evaluate_against(images, reference, settings, self.extractors, conditions.labels, self.classes)
        else:
            measured = evaluate_images(images, conditions.labels, reference, settings, self.extractors)
        if conditions.captions:
            measured.protocol["prompts"] = conditions.origin
        return with_caption_scores(measured, images, conditions.captions, settings, self.scorers)


def build_evaluator(config: RunConfig) -> Evaluator:
    """What measures the samples that `config.evaluation` asks for.

    Raises:
        ValueError: a reference or a file of weights that cannot be read, or does not fit the samples.
        FileNotFoundError: one that is not there.
    """
    wanted = config.evaluation
    settings = MetricsConfig(
        inception_weights=wanted.inception_weights,
        dinov2_weights=wanted.dinov2_weights,
        clip_weights=wanted.clip_weights,
        blip_vqa_weights=wanted.blip_vqa_weights,
        detector_weights=wanted.detector_weights,
        bootstrap=wanted.bootstrap,
        cache_dir=str(config.root / "cache"),
        device=str(device_of(config)),
    )
    reference = _reference(config)
    extractors = {} if reference is None else make_extractors(settings)
    shape = (wanted.num_samples, config.tokenizer.image_size, config.tokenizer.image_size, 3)
    if isinstance(reference, ReferenceStatistics):
        check_statistics(shape, reference, extractors)
    elif reference is not None:
        check_reference(shape, reference)
    classes = evaluation_data(config).class_names if isinstance(reference, ReferenceStatistics) else ()
    return Evaluator(settings, reference, extractors, load_scorers(settings), classes)


def _reference(config: RunConfig) -> ReferenceSet | ReferenceStatistics | None:
    if config.evaluation.prompt_file:
        return None
    if file := config.evaluation.reference_file:
        return read_statistics(Path(file))
    data = evaluation_data(config)
    return DATASETS.target(data.name).reference(data)
