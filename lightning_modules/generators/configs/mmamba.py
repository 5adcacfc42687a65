"""M-Mamba's configuration, with a switch for everything its slides leave open. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning_modules.bounds import check_least
from lightning_modules.generators.configs.muse import MuseConfig
from lightning_modules.layers.config import CrossScanConfig


@dataclass
class MMambaConfig(MuseConfig):
    """M-Mamba: UViT with a stack of cross-scan layers; 448,014,336 parameters in 22 of them."""

    name: str = "mmamba"
    cross_scan: CrossScanConfig = field(default_factory=CrossScanConfig)
    cross_attention: bool = False
    """A cross-attention to the words behind every mixer (slide 32), as in UViT."""
    text_update: bool = True
    """The words change from layer to layer; false: every layer gets the words of the first."""
    text_mlp: bool = True
    """The MLP works on the words as well, where they change: not without `text_update` or words in the scans."""
    adaln: bool = True
    """Pooled text and micro conditions scale and shift the normalised inputs of every layer."""
    mlp_ratio: float = 4.0
    """Hidden width of the stack's MLPs over its width."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, "generator", mlp_ratio=1 / self.width)
        if self.cross_scan.text == "none" and not self.cross_attention and self.ends == "conv":
            raise ValueError(
                "cross_scan.text=none, cross_attention=false and ends=conv leave the generator without its words; "
                "set one of them otherwise."
            )
