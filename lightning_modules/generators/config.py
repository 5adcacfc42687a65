"""The generators by name. Torch-free.

A configuration holds what a paper calls the architecture. Sizes that follow from another part of the run (`vocab_size`,
`grid_size`, `num_classes`, ..) are 0 in it, which means "as the tokenizer, the data or the text encoder has them".
"""

from __future__ import annotations

from lightning_modules.generators.configs.aim import AiMConfig
from lightning_modules.generators.configs.dimba import DimbaConfig
from lightning_modules.generators.configs.llamagen import LlamaGenConfig
from lightning_modules.generators.configs.maskmamba import MaskMambaConfig
from lightning_modules.generators.configs.mmamba import MMambaConfig
from lightning_modules.generators.configs.muse import UViTConfig
from lightning_modules.registry import Entry, Registry

GENERATORS = Registry(
    "generator",
    {
        "maskmamba": Entry(MaskMambaConfig, "lightning_modules.generators.maskmamba:MaskMamba"),
        "aim": Entry(AiMConfig, "lightning_modules.generators.aim:AiM"),
        "dimba": Entry(DimbaConfig, "lightning_modules.generators.dimba:Dimba"),
        "llamagen": Entry(LlamaGenConfig, "lightning_modules.generators.llamagen:LlamaGen"),
        "mmamba": Entry(MMambaConfig, "lightning_modules.generators.mmamba:MMamba"),
        "uvit": Entry(UViTConfig, "lightning_modules.generators.uvit:UViT"),
    },
)
