"""Whether the published CUDA packages can be used here; imports nothing of them where there is no GPU."""

import functools
import importlib
import importlib.util
import warnings

import torch

MODULES = {
    # The compiled part by itself: newer releases of mamba-ssm can be installed, and imported, without it.
    "selective_scan": ("selective_scan_cuda", "mamba_ssm.ops.selective_scan_interface"),
    "ssd": ("mamba_ssm.ops.triton.ssd_combined",),
    "depthwise_conv1d": ("causal_conv1d",),
    # Not flash_attn alone, which is there with flash-attn-4, or without compiled parts, and has no function then.
    "attention": ("flash_attn.flash_attn_interface",),
}
"""Operation -> what its adapter imports, the last one of the package itself."""


@functools.cache
def missing(operation: str) -> str | None:
    """None where the package that runs `operation` is installed, loads, and there is a GPU, else why not."""
    package = MODULES[operation][-1].partition(".")[0]
    name = package.replace("_", "-")
    if importlib.util.find_spec(package) is None:
        return f"{name} is not installed (extra 'cuda')"
    if not torch.cuda.is_available():
        return "no CUDA device"
    if operation == "attention" and torch.cuda.get_device_capability() < (8, 0):
        return "flash-attn needs a GPU of compute capability 8.0 or more"
    try:
        for module in MODULES[operation]:
            importlib.import_module(module)
    except Exception as error:  # compiled for another PyTorch, say: whatever a package raises when it is loaded
        reason = f"{name} does not load ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"
        warnings.warn(f"Another back end stands in for {operation}: {reason}; install {name} anew.", stacklevel=2)
        return reason
    return None
