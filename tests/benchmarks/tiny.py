"""Options that make every benchmark as short as can be."""

from __future__ import annotations

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "scan": {"shapes": [(1, 24, 33)], "seconds": 0, "peers": ["mambapy"]},
    "cross-scan": {"shapes": [(1, 8, 3, 4)], "seconds": 0},
    "rows": {"shapes": [(1, 5, 6)], "seconds": 0},
    "linear": {"shapes": [(3, 5, 6)], "seconds": 0},
    "ssd": {"shapes": [(1, 9, 2, 4, 3)], "seconds": 0},
    "conv": {"shapes": [(1, 24, 33)], "seconds": 0},
    "layer": {"lengths": [16], "width": 32, "heads": 2, "seconds": 0},
    "sampler": {"batches": [1], "steps": 3, "seconds": 0},
    "train-step": {
        "presets": ["maskmamba/demo", "aim/llamagen-demo"],
        "batch": 2,
        "seconds": 0,
        "overrides": {"generator.width": 40, "generator.depth": 2, "generator.heads": 2},
    },
    "plan": {"cells": 6, "seconds": 0},
    "loader": {
        "samples": 9000,
        "length": 8,
        "batch": 32,
        "workers": [0],
        "seconds": 0.05,
        "phases": ["warm"],
        "peers": [],
    },
    "decode": {"presets": ["aim/demo", "aim/llamagen-demo"], "batches": [2], "precisions": ["fp32"], "seconds": 0},
}
