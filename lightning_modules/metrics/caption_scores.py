"""Scores of images beside the captions that they were asked for with; each needs a published model in a local folder.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_modules.metrics.attribute_binding import AttributeBinding
from lightning_modules.metrics.clip_score import CLIPScore
from lightning_modules.metrics.config import MetricsConfig
from lightning_modules.metrics.local_model import LocalModel
from lightning_modules.metrics.measurement import Measurement, with_mean
from lightning_modules.metrics.spatial import SpatialRelations

SCORES: dict[str, type[LocalModel]] = {
    "clip": CLIPScore,
    "attribute_binding": AttributeBinding,
    "spatial_relations": SpatialRelations,
}
"""By their section of the protocol."""


def load_scorers(config: MetricsConfig) -> dict[str, LocalModel]:
    """The models whose folders `config` names, on the CPU, by their section of the protocol.

    Raises:
        ValueError, FileNotFoundError: as `LocalModel` does.
    """
    folders = {section: getattr(config, kind.key) for section, kind in SCORES.items()}
    return {section: SCORES[section](Path(folder)) for section, folder in folders.items() if folder}


def with_caption_scores(
    measured: Measurement,
    images: np.ndarray,
    captions: Sequence[str],
    config: MetricsConfig,
    scorers: Mapping[str, LocalModel] | None = None,
) -> Measurement:
    """A measurement with those scores beside it whose weights `config` names, where there are captions.

    A score is the mean over the images whose captions it can judge, of which the protocol tells the number.

    Args:
        scorers: those of `load_scorers(config)`, where they are loaded already.
    """
    if not captions:
        return measured
    measured = measured._replace(protocol=dict(measured.protocol))
    for section, model in (load_scorers(config) if scorers is None else scorers).items():
        values = model.to(config.device)(images, captions, config.batch_size)
        model.to("cpu")  # the next one needs the memory
        values = values[~np.isnan(values)]
        measured.protocol[section] = {**model.protocol, "images": len(values)}
        if len(values):
            measured = with_mean(measured, model.name, values, config)
    return measured
