"""A step of a whole Mamba-2 stack in C++: fills the structures of source/mamba2_decode.h once, calls each step.

Shapes: see source/mamba2_decode.h.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.kernels.cpp.decode import check_batch, check_tensor, entry_point

LAYER_TENSORS = (
    "in_proj out_proj taps conv_bias dt_bias A skip norm shift scale gate window state".split()
)  # mamba2::Layer, in order
_IN_DECODING_TYPE = frozenset({"in_proj", "out_proj", "window", "head"})
_SIZES = ("batch", "width", "inner", "heads", "states", "taps", "vocabulary", "layers", "threads")


class _Layer(ctypes.Structure):
    """mamba2::Layer."""

    _fields_ = [(name, ctypes.c_void_p) for name in LAYER_TENSORS]


class _Arguments(ctypes.Structure):
    """mamba2::Arguments."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("epsilon", ctypes.c_float),
        ("layer", ctypes.POINTER(_Layer)),
        *((n, ctypes.c_void_p) for n in "norm final_shift final_scale head residual scratch logits".split()),
    ]


class Mamba2Decoder:
    """Residual stream (B, M) of the newest token -> logits (B, V); the layers' windows and states move on in place.

    Args:
        layers: for every layer, `LAYER_TENSORS` by name: in_proj (R, M), out_proj (M, D), window (B, k - 1, W) in the
            type of decoding (float32 or bfloat16); taps (k, W), conv_bias (W,), dt_bias, A, skip (H,), norm (D,),
            shift, scale, gate (B, M), state (B, H, P, N) in float32.
        norm, final_shift, final_scale: (M,), (B, M), (B, M) float32.
        head: (V, M) in the type of decoding.
        epsilon: of every RMS norm.

    The tensors are held, and read where they lie: whoever writes into shift, scale, gate, window or state in place
    changes the next step.

    Raises:
        ValueError: a tensor that is not contiguous or not of the type above, or more than `MAX_BATCH` samples.
    """

    def __init__(
        self,
        layers: Sequence[dict[str, Tensor]],
        norm: Tensor,
        final_shift: Tensor,
        final_scale: Tensor,
        head: Tensor,
        epsilon: float,
    ):
        first = layers[0]
        batch, heads, channels, states = first["state"].shape
        (rows, width), inner, taps = first["in_proj"].shape, heads * channels, len(first["taps"])
        check_batch(batch)
        self._tensors = [*layers, {"norm": norm, "final_shift": final_shift, "final_scale": final_scale, "head": head}]
        for tensors in self._tensors:
            for name, tensor in tensors.items():
                check_tensor(name, tensor, head.dtype if name in _IN_DECODING_TYPE else torch.float32)
        self._threads = threads = torch.get_num_threads()
        shared, own = rows + inner + 2 * states + inner, max(width, inner)
        self._scratch = torch.empty(batch * shared + threads * (batch + 1) * own)
        self._residual = torch.empty(batch, width)
        self._logits = torch.empty(batch, len(head))
        self._layers = (_Layer * len(layers))(
            *(_Layer(*(layer[name].data_ptr() for name in LAYER_TENSORS)) for layer in layers)
        )
        kept = (norm, final_shift, final_scale, head, self._residual, self._scratch, self._logits)
        sizes = (batch, width, inner, heads, states, taps, len(head), len(layers), threads)
        self._arguments = _Arguments(*sizes, epsilon, self._layers, *(t.data_ptr() for t in kept))
        self._run = entry_point("mamba2_decode", head.dtype)

    def __call__(self, residual: Tensor) -> Tensor:
        """residual: (B, M) float32 -> logits (B, V) float32."""
        self._residual.copy_(residual)
        self._arguments.threads = min(self._threads, torch.get_num_threads())  # scratch was cut for so many
        self._run(ctypes.byref(self._arguments))
        return self._logits.clone()
