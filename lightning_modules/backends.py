"""Names of operations and back ends, and how a user forces them. Torch-free; kernels/dispatch.py tells what exists."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

ENVIRONMENT_VARIABLE = "ABLATE_KERNELS"
AUTO = "auto"
SELECTIVE_SCAN = "selective_scan"
DEPTHWISE_CONV1D = "depthwise_conv1d"
SELECTIVE_STATE_UPDATE = "selective_state_update"
DEPTHWISE_CONV1D_UPDATE = "depthwise_conv1d_update"
SSD = "ssd"
ATTENTION = "attention"
RMS_NORM = "rms_norm"
RESIDUAL = "residual"
SWIGLU = "swiglu"
LINEAR = "linear"
MAMBA2_DECODE = "mamba2_decode"
TRANSFORMER_DECODE = "transformer_decode"
OPERATIONS = (
    SELECTIVE_SCAN,
    DEPTHWISE_CONV1D,
    SELECTIVE_STATE_UPDATE,
    DEPTHWISE_CONV1D_UPDATE,
    SSD,
    ATTENTION,
    RMS_NORM,
    RESIDUAL,
    SWIGLU,
    LINEAR,
    MAMBA2_DECODE,
    TRANSFORMER_DECODE,
)
WHOLE_NETWORKS = frozenset({MAMBA2_DECODE, TRANSFORMER_DECODE})
"""Steps of whole networks, which layers take one by one where a back end has no step for the call."""
# In order of preference: the first that fits runs. Packages stand ahead of the suite's own GPU kernels: who installs
# them wants them to run, unless they are no gain for the call (`behind` of dispatch.choose).
IMPLEMENTED: dict[str, frozenset[str]] = {
    "cpp": frozenset(OPERATIONS) - {ATTENTION, LINEAR},
    "mamba_ssm": frozenset({SELECTIVE_SCAN, SSD}),
    "causal_conv1d": frozenset({DEPTHWISE_CONV1D}),
    "flash_attn": frozenset({ATTENTION}),
    "triton": frozenset({SELECTIVE_SCAN, DEPTHWISE_CONV1D}),
    "onednn": frozenset({LINEAR}),
    "torch": frozenset(OPERATIONS),
    "reference": frozenset(OPERATIONS),
}
"""Back end -> the operations that it implements."""


class Forced(NamedTuple):
    """What the user asks for."""

    backend: str
    by_operation: bool
    """As `operation=backend`, not as a back end for all that it implements."""


@lru_cache(maxsize=64)
def forced_backends(value: str, source: str) -> Mapping[str, Forced]:
    """Operation -> the back end that a value asks for: "cpp", which holds for the operations that it implements, or
    "selective_scan=cpp,depthwise_conv1d=torch"; a later entry wins, and "auto" leaves the choice to the suite.

    Args:
        source: where the value stands, for messages.

    Raises:
        ValueError: a name that does not exist, or a back end that does not implement the operation.
    """
    forced: dict[str, Forced] = {}
    for entry in filter(None, (part.strip() for part in value.split(","))):
        operation, separator, name = entry.partition("=")
        if not separator:
            operation, name = "", entry
        elif operation not in OPERATIONS:
            raise ValueError(f"{source} names no operation {operation!r}: choose from {', '.join(OPERATIONS)}.")
        if name not in (AUTO, *IMPLEMENTED):
            raise ValueError(f"{source}={name!r} is no back end: choose one of {AUTO}, {', '.join(IMPLEMENTED)}.")
        implemented = OPERATIONS if name == AUTO else IMPLEMENTED[name]
        if operation and operation not in implemented:
            raise ValueError(f"{source}: {name} does not implement {operation}; {_who_does(operation)} do.")
        forced |= dict.fromkeys([operation] if operation else implemented, Forced(name, bool(operation)))
    return MappingProxyType({operation: entry for operation, entry in forced.items() if entry.backend != AUTO})


def _who_does(operation: str) -> str:
    return ", ".join(name for name, operations in IMPLEMENTED.items() if operation in operations)
