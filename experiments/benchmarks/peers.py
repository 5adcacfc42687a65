"""Other implementations, where they are installed: named with their version, None where absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backends import DEPTHWISE_CONV1D, SELECTIVE_SCAN
from lightning_modules.kernels.stock import availability

Package = Literal["mambapy", "transformers", "mamba-ssm"]
PEERS: tuple[Package, ...] = ("mambapy", "transformers", "mamba-ssm")
"""Packages with a selective scan."""
KEPT = ", kept memory"
"""Behind the name of a peer that runs in this process, with its allocator's settings (experiments/allocator.py)."""
KEPT_NOTE = (
    f"{KEPT.removeprefix(', ')}: in this process, which reuses freed memory; without it: in a process of its own, as "
    "any program runs it; all in turns"
)

# (u, delta, A, B, C, D, delta_bias) -> y, channel-last, before softplus.
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def scans(device: str, packages: Sequence[Package]) -> dict[str, Scan]:
    """Selective scans of those of the packages that are installed and run on such a device."""
    found: dict[str, Scan] = {}
    if "mambapy" in packages and (name := _installed("mambapy")):
        found[name] = _mambapy(import_module("mambapy.pscan").pscan)
    if "transformers" in packages and device == "cpu" and (name := _installed("transformers")):
        # What its Mamba models run without CUDA kernels, position by position; a function of its own since version 5.
        module = import_module("transformers.models.mamba.modeling_mamba")
        if scan := getattr(module, "mamba_selective_scan", None):
            found[name] = _channels_first(scan)
    if "mamba-ssm" in packages and _loads(SELECTIVE_SCAN, device) and (name := _installed("mamba-ssm")):
        found[name] = _channels_first(import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn)
    return found


def causal_convs(device: str) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Causal depthwise convolutions with SiLU of other packages: (x, weight, bias) -> y, channel-last."""
    if not _loads(DEPTHWISE_CONV1D, device) or not (name := _installed("causal-conv1d")):
        return {}
    function = import_module("causal_conv1d").causal_conv1d_fn
    return {name: lambda x, weight, bias: function(x.mT, weight, bias, activation="silu").mT}


def torch_conv(x: Tensor, weight: Tensor, bias: Tensor, pad_left: int) -> Tensor:
    """What Mamba code writes without causal-conv1d: transposes around F.conv1d, then SiLU. x: (B, L, C)."""
    length = x.shape[1]
    padding = max(pad_left, weight.shape[1] - 1 - pad_left)
    y = F.conv1d(x.mT, weight[:, None], bias, padding=padding, groups=x.shape[2])
    start = padding - pad_left
    return F.silu(y[..., start : start + length]).mT


def _loads(operation: str, device: str) -> bool:
    """Whether the CUDA package that runs the operation can be used, which to be installed is not enough for."""
    return device == "cuda" and availability.missing(operation) is None


def _installed(package: str) -> str | None:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None


def _mambapy(pscan: Callable[[Tensor, Tensor], Tensor]) -> Scan:
    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        delta = F.softplus(delta + bias)
        decay = torch.exp(delta.unsqueeze(-1) * A)
        states = pscan(decay, delta.unsqueeze(-1) * B.unsqueeze(2) * u.unsqueeze(-1))
        return (states @ C.unsqueeze(-1)).squeeze(3) + D * u

    return scan


def _channels_first(selective_scan_fn: Callable[..., Tensor]) -> Scan:
    """A function of mamba-ssm's interface."""

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        return selective_scan_fn(u.mT, delta.mT, A, B.mT, C.mT, D, delta_bias=bias, delta_softplus=True).mT

    return scan
