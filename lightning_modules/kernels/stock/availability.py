"""Whether the published CUDA packages can be used here; imports nothing of them."""

import functools
import importlib.util

import torch


@functools.cache
def missing(package: str) -> str | None:
    """None where `package` (an import name) is installed and there is a GPU, else why not."""
    if importlib.util.find_spec(package) is None:
        return f"{package.replace('_', '-')} is not installed (extra 'cuda')"
    return None if torch.cuda.is_available() else "no CUDA device"


def scan_missing() -> str | None:
    """Of mamba-ssm."""
    return missing("mamba_ssm")


def conv_missing() -> str | None:
    """Of causal-conv1d."""
    return missing("causal_conv1d")


def attention_missing() -> str | None:
    """Of flash-attn."""
    return missing("flash_attn")
