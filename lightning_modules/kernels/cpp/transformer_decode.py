"""A step of a whole Transformer in C++: fills the structures of source/transformer_decode.h once, calls each step.

Shapes: see source/transformer_decode.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.kernels.cpp.decode import check_batch, check_tensor, entry_point

LAYER_TENSORS = "qkv out_proj gate_up down norm mlp_norm keys values".split()  # transformer::Layer, in order
_NORMS = frozenset({"norm", "mlp_norm"})
_SIZES = ("batch", "width", "heads", "hidden", "positions", "vocabulary", "layers", "threads", "position")
_UNIT = 16  # floats in the longest vector


class _Layer(ctypes.Structure):
    """transformer::Layer."""

    _fields_ = [(name, ctypes.c_void_p) for name in LAYER_TENSORS]


class _Arguments(ctypes.Structure):
    """transformer::Arguments."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("epsilon", ctypes.c_float),
        ("layer", ctypes.POINTER(_Layer)),
        *((n, ctypes.c_void_p) for n in "norm head visible rotation residual scratch logits".split()),
    ]


class TransformerDecoder:
    """(residual stream of the newest token, its rotation, its position) -> logits; the cache grows in place.

    Args:
        layers: for every layer, `LAYER_TENSORS` by name: qkv (3M, M), out_proj (M, M), gate_up (2F, M), down (M, F),
            and the cache, keys and values (B, H, S, E), in the type of decoding (float32 or bfloat16); norm and
            mlp_norm (M,) float32.
        norm: (M,) float32.
        head: (V, M) in the type of decoding.
        visible: (B, 1, 1, S) bool, the positions that the newest one sees.
        epsilon: of every RMS norm.

    The tensors are held, and read where they lie: whoever writes into the cache or `visible` in place changes the next
    step.

    Raises:
        ValueError: a tensor that is not contiguous or not of the type and shape above, or more samples than
            `decode.MAX_BATCH`.
    """

    def __init__(
        self, layers: Sequence[dict[str, Tensor]], norm: Tensor, head: Tensor, visible: Tensor, epsilon: float
    ):
        first = layers[0]
        batch, heads, self._positions, channels = first["keys"].shape
        width, hidden, threads = heads * channels, first["down"].shape[1], torch.get_num_threads()
        check_batch(batch)
        cache = (batch, heads, self._positions, channels)
        shapes = (
            (3 * width, width),
            (width, width),
            (2 * hidden, width),
            (width, hidden),
            (width,),
            (width,),
            cache,
            cache,
        )
        for layer in layers:
            for name, shape in zip(LAYER_TENSORS, shapes, strict=True):
                check_tensor(name, layer[name], torch.float32 if name in _NORMS else head.dtype, shape)
        check_tensor("norm", norm, torch.float32, (width,))
        check_tensor("head", head, head.dtype, (len(head), width))
        check_tensor("visible", visible, torch.bool, (batch, 1, 1, self._positions))
        self._tensors = [*layers, norm, head, visible]
        shared = batch * (max(3 * width, 2 * hidden) + max(width, hidden))
        own = batch * width + -(-self._positions // _UNIT) * _UNIT
        self._threads, self._scratch = threads, torch.empty(shared + threads * own)
        self._residual, self._logits = torch.empty(batch, width), torch.empty(batch, len(head))
        self._rotation = torch.empty(channels // 2, 2)
        self._layers = (_Layer * len(layers))(
            *(_Layer(*(layer[name].data_ptr() for name in LAYER_TENSORS)) for layer in layers)
        )
        kept = (norm, head, visible, self._rotation, self._residual, self._scratch, self._logits)
        sizes = (batch, width, heads, hidden, self._positions, len(head), len(layers), threads, 0)
        self._arguments = _Arguments(*sizes, epsilon, self._layers, *(t.data_ptr() for t in kept))
        self._run = entry_point("transformer_decode", head.dtype)

    def __call__(self, residual: Tensor, rotation: Tensor, position: int) -> Tensor:
        """residual: (B, M); rotation: (E / 2, 2), cosine and sine of channel pairs; position: row of the cache that is
        written, those before it have been -> logits (B, V) float32.

        Raises IndexError for a position beyond the cache.
        """
        if not 0 <= position < self._positions:
            raise IndexError(f"The cache has {self._positions} positions, none with number {position}.")
        self._residual.copy_(residual)
        self._rotation.copy_(rotation)
        self._arguments.position = position
        self._arguments.threads = min(self._threads, torch.get_num_threads())  # scratch was cut for so many
        self._run(ctypes.byref(self._arguments))
        return self._logits.clone()
