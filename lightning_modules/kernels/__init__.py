"""The operations Mamba image generators spend their time in, one dispatch function each.

Every operation runs on several back ends (`available()` says which, and why the others do not); the first of
`dispatch.BACKENDS` that fits the tensors is chosen unless the call (`backend=`) or the environment (`ABLATE_KERNELS`)
names another. `backends_used()` tells what really ran, and belongs into every result.
"""

from lightning_modules.kernels.attention import attend
from lightning_modules.kernels.decode import mamba2_decoder, transformer_decoder
from lightning_modules.kernels.depthwise_conv import depthwise_conv1d
from lightning_modules.kernels.dispatch import available, backends_used, reset_backends_used
from lightning_modules.kernels.linear import linear
from lightning_modules.kernels.rows import residual, rms_norm, swiglu
from lightning_modules.kernels.selective_scan import selective_scan
from lightning_modules.kernels.ssd import ssd, ssd_state_update
from lightning_modules.kernels.state_update import depthwise_conv1d_update, selective_state_update

__all__ = [
    "attend",
    "available",
    "backends_used",
    "depthwise_conv1d",
    "depthwise_conv1d_update",
    "linear",
    "mamba2_decoder",
    "reset_backends_used",
    "residual",
    "rms_norm",
    "selective_scan",
    "selective_state_update",
    "ssd",
    "ssd_state_update",
    "swiglu",
    "transformer_decoder",
]
