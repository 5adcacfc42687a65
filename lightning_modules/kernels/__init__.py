"""The operations Mamba image generators spend their time in, one dispatch function each.

Every operation runs on several back ends (`available()` says which, and why the others do not); the fastest one that
fits the tensors is chosen unless the call (`backend=`) or the environment (`ABLATE_KERNELS`) names another.
`backends_used()` tells what really ran, and belongs into every result.
"""

from lightning_modules.kernels.depthwise_conv import depthwise_conv1d
from lightning_modules.kernels.dispatch import available, backends_used, reset_backends_used
from lightning_modules.kernels.selective_scan import selective_scan

__all__ = ["available", "backends_used", "depthwise_conv1d", "reset_backends_used", "selective_scan"]
