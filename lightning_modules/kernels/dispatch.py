"""Chooses the back end of an operation, by machine, tensors and what the user forces, and records which one ran."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from lightning_modules.backends import (
    ENVIRONMENT_VARIABLE,
    IMPLEMENTED,
    OPERATIONS,
    SSD,
    WHOLE_NETWORKS,
    forced_backends,
)
from lightning_modules.kernels import onednn
from lightning_modules.kernels.cpp import library as cpp
from lightning_modules.kernels.stock import availability as stock
from lightning_modules.kernels.triton import availability as triton
from lightning_modules.precision import autocast_dtype


@dataclass(frozen=True)
class Backend:
    """One way to run some of the operations.

    missing: operation -> None where the machine has all it needs, else the reason in words (asked once, then
        remembered).
    devices, dtypes: tensors it takes; empty means any.
    rounds: operations whose factors it rounds to TensorFloat-32 on a GPU, whatever the process allows.
    """

    name: str
    operations: frozenset[str]
    missing: Callable[[str], str | None] = lambda operation: None
    devices: frozenset[str] = frozenset()
    dtypes: frozenset[torch.dtype] = frozenset()
    rounds: frozenset[str] = frozenset()

    def unfit(self, operation: str, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why this back end cannot run `operation` on such tensors here; None where it can."""
        if operation not in self.operations:
            return f"it does not implement {operation}"
        if self.devices and device.type not in self.devices:
            return f"it runs on {' or '.join(sorted(self.devices))}, not on {device.type}"
        if self.dtypes and dtype not in self.dtypes:
            return f"it takes {' or '.join(sorted(map(_dtype_name, self.dtypes)))}, not {_dtype_name(dtype)}"
        wide = operation in self.rounds and device.type == "cuda" and dtype == torch.float32
        if wide and torch.get_float32_matmul_precision() == "highest":
            return "it rounds float32 to TensorFloat-32, which torch.set_float32_matmul_precision does not allow here"
        return self.missing(operation)


_HALVES = frozenset({torch.bfloat16, torch.float16})
_CUDA = frozenset({"cuda"})
_ON_GPU = {"missing": stock.missing, "devices": _CUDA, "dtypes": _HALVES | {torch.float32}}
_LIMITS: dict[str, dict[str, Any]] = {
    "cpp": {
        "missing": lambda operation: cpp.missing(),
        "devices": frozenset({"cpu"}),
        "dtypes": frozenset({torch.float32, torch.bfloat16}),
    },
    "onednn": {
        "missing": lambda operation: onednn.missing(),
        "devices": frozenset({"cpu"}),
        "dtypes": frozenset({torch.float32}),
    },
    "mamba_ssm": _ON_GPU | {"rounds": frozenset({SSD})},
    "causal_conv1d": _ON_GPU,
    "flash_attn": _ON_GPU | {"dtypes": _HALVES},
    "triton": _ON_GPU | {"missing": lambda operation: triton.missing(), "devices": triton.devices()},
}
BACKENDS = {name: Backend(name, operations, **_LIMITS.get(name, {})) for name, operations in IMPLEMENTED.items()}
"""In order of preference."""

_used: dict[str, set[str]] = {}


def available() -> dict[str, dict[str, str | None]]:
    """Operation -> back end -> None where it can run on this machine, else the reason it cannot."""
    return {
        operation: {
            name: backend.missing(operation) for name, backend in BACKENDS.items() if operation in backend.operations
        }
        for operation in OPERATIONS
    }


def backends_used() -> dict[str, str]:
    """Operation -> back end that ran it since the last reset; several are joined by '+'."""
    return {operation: "+".join(sorted(names)) for operation, names in sorted(_used.items())}


def reset_backends_used() -> None:
    """Forget what ran."""
    _used.clear()


def record(operation: str, backend: str) -> None:
    """Note that `backend` ran `operation`; called by the back ends' entry points, also from compiled graphs."""
    _used.setdefault(operation, set()).add(backend)


def working_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an operation takes activations: what autocast asks for; float64 stays, as in torch.

    Raises ValueError where they are not floating-point numbers.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"Activations must be floating-point numbers, not {_dtype_name(dtype)}: convert them first.")
    return dtype if dtype == torch.float64 else autocast_dtype(device_type) or dtype


def choose(
    operation: str,
    requested: str | None,
    device: torch.device,
    dtype: torch.dtype,
    excluded: Mapping[str, str] = MappingProxyType({}),
    behind: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The back end for `operation` on tensors of this device and dtype.

    requested: a name, or None / "auto" to let ABLATE_KERNELS and then the order of preference decide.
    excluded: back ends that cannot take this call, for a reason beside device and dtype -> the reason.
    behind: back ends that are slow for this call -> the one that is preferred to it, unless that one cannot run or the
        user names a back end.
    Raises ValueError where a named back end is unknown or cannot run this; of `WHOLE_NETWORKS`, one that is `excluded`
    is passed over unless it is named for the operation itself.
    """
    name, source = requested, "backend"
    if name in (None, "auto"):
        source = ENVIRONMENT_VARIABLE
        forced = forced_backends(os.environ.get(source, ""), source).get(operation)
        name = None if forced is None else forced.backend
        if forced is not None and not forced.by_operation and operation in WHOLE_NETWORKS and name in excluded:
            name = None  # the layers' operations run on the forced back end then
    if name is None:
        names = (name for name in BACKENDS if name not in excluded)
        fitting = (name for name in names if BACKENDS[name].unfit(operation, device, dtype) is None)
        first = next(fitting)
        return behind[first] if first in behind and behind[first] in fitting else first
    if name not in BACKENDS:
        raise ValueError(f"{source}={name!r} is no back end: choose one of auto, {', '.join(BACKENDS)}.")
    reason = excluded.get(name) or BACKENDS[name].unfit(operation, device, dtype)
    if reason is not None:
        raise ValueError(f"{source}={name!r} cannot run {operation}: {reason}; use auto to let the suite choose.")
    return name


# What torch.compiler.assume_constant_result sets, without importing the compiler at start-up: a graph is traced for
# given devices and dtypes, so the choice is a constant of it. `record` notes while tracing.
for _constant in (choose, record, onednn.gains):
    vars(_constant)["_dynamo_marked_constant"] = True


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
