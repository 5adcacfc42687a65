"""Inception-v3 of 2015-12-05, the network that FID, sFID and IS are defined with, from a local file.

Nothing is ever downloaded: `FeatureExtractorInceptionV3` of torch-fidelity gets the path, after the file was checked.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

log = logging.getLogger(__name__)
NAME = "inception-v3-compat"
LAYER, LOGITS, SPATIAL = "2048", "logits_unbiased", "spatial_hwc"
SPATIAL_CHANNELS = 7
RESIZE = "bilinear to 299x299 as in TensorFlow 1; (x - 128) / 128"
PUBLISHED = "6726825d"
"""First digits of the sha256 of weights-inception-2015-12-05-6726825d.pth, as torch-fidelity publishes it."""


class Inception(nn.Module):
    """torch-fidelity's extractor, with the spatial features of sFID (Nash et al. 2021) beside its own.

    These are, as in ADM's evaluator, the first 7 channels of "mixed_6/conv", the 1x1 branch of the seventh Inception
    block: 17 x 17 x 7 = 2023 numbers by row, column and channel, as TensorFlow has them. The means and covariances that
    were published for ADM fit this order alone.
    """

    features_list = (LAYER, LOGITS, SPATIAL)

    def __init__(self, network: FeatureExtractorInceptionV3):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images: (B, 3, H, W) uint8 -> pooled (B, 2048), logits (B, 1008), spatial (B, 2023), float32."""
        kept: list[Tensor] = []
        handle = self.network.Mixed_6d.branch1x1.register_forward_hook(
            lambda _, inputs, output: kept.append(output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1).float())
        )
        try:
            pooled, logits = self.network(images)
        finally:
            handle.remove()
        return pooled, logits, kept[0]


def load_inception(path: Path, sha256: str) -> Inception:
    """The network with weights from a file.

    A file of the right layout but another checksum (converted anew, say) is used with a warning: that its values are
    those of 2015-12-05 cannot be told, so its checksum stands in the protocol.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weight file, or of another network.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Inception weights {path} not found; leave evaluation.inception_weights empty to go without FID and IS."
        )
    expected = f"expected weights-inception-2015-12-05-{PUBLISHED}.pth as published for torch-fidelity"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)  # refuses code; torch-fidelity would run it
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a file of PyTorch weights; {expected}.") from error
    if not isinstance(weights, dict) or not all(torch.is_tensor(value) for value in weights.values()):
        raise ValueError(f"{path} does not hold a dictionary of weights; {expected}.")
    try:
        extractor = FeatureExtractorInceptionV3(NAME, [LAYER, LOGITS], feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another network than Inception-v3; {expected}.") from error
    if not sha256.startswith(PUBLISHED):
        log.warning("%s has the layout but not the checksum of the published Inception weights.", path)
    return Inception(extractor)
