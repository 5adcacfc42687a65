"""A step of a whole Transformer in C++: fills the structures of source/transformer_decode.h once, calls each step.

Shapes: see source/transformer_decode.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.kernels.cpp.decode import Step, check_batch, check_layers, check_tensor, take

_UNIT = 16  # floats in the longest vector


class TransformerDecoder:
    """(residual stream of the newest token, its rotation, its position) -> logits; the cache grows in place.

    Args:
        layers: for every layer, by name: qkv (3M, M), out_proj (M, M), gate_up (2F, M), down (M, F), and the cache,
            keys and values (B, H, S, E), in the type of decoding (float32 or bfloat16); norm and mlp_norm (M,) float32.
        norm: (M,) float32.
        head: (V, M) in the type of decoding.
        visible: (B, 1, 1, S) bool, the positions that the newest one sees.
        epsilon: of every RMS norm.

    The tensors are held, and read where they lie: whoever writes into the cache or `visible` in place changes the next
    step.

    Raises:
        ValueError: a tensor that is not contiguous or not of the type and shape above, heads of an odd width E, or more
            samples than `decode.MAX_BATCH`.
    """

    def __init__(
        self, layers: Sequence[dict[str, Tensor]], norm: Tensor, head: Tensor, visible: Tensor, epsilon: float
    ):
        first = layers[0]
        batch, heads, self._positions, channels = first["keys"].shape
        width, hidden = heads * channels, first["down"].shape[1]
        check_batch(batch)
        if channels % 2:
            raise ValueError(f"Heads must be of even width, since channels are turned in pairs, not of {channels}.")
        cache = (batch, heads, self._positions, channels)
        shapes: dict[str, tuple[int, ...]] = {  # transformer::Layer, in order
            "qkv": (3 * width, width),
            "out_proj": (width, width),
            "gate_up": (2 * hidden, width),
            "down": (width, hidden),
            "norm": (width,),
            "mlp_norm": (width,),
            "keys": cache,
            "values": cache,
        }
        check_layers(layers, shapes, dict.fromkeys(shapes.keys() - {"norm", "mlp_norm"}, head.dtype))
        check_tensor("norm", norm, torch.float32, (width,))
        check_tensor("head", head, head.dtype, (len(head), width))
        check_tensor("visible", visible, torch.bool, (batch, 1, 1, self._positions))
        threads = torch.get_num_threads()
        sizes = {
            "batch": batch,
            "width": width,
            "heads": heads,
            "hidden": hidden,
            "positions": self._positions,
            "vocabulary": len(head),
            "layers": len(layers),
            "threads": threads,
            "position": 0,
        }
        shared = batch * (max(3 * width, 2 * hidden) + max(width, hidden))
        own = batch * width + -(-self._positions // _UNIT) * _UNIT
        self._residual, self._logits = torch.empty(batch, width), torch.empty(batch, len(head))
        self._rotation = torch.empty(channels // 2, 2)
        tensors = {
            "norm": norm,
            "head": head,
            "visible": visible,
            "rotation": self._rotation,
            "residual": self._residual,
            "scratch": torch.empty(shared + threads * own),
            "logits": self._logits,
        }
        ordered = ([layer[name] for name in shapes] for layer in layers)
        self._step = Step("transformer_decode", ordered, sizes, epsilon, tensors)

    def __call__(self, residual: Tensor, rotation: Tensor, position: int) -> Tensor:
        """residual: (B, M); rotation: (E / 2, 2), cosine and sine of channel pairs; position: row of the cache that is
        written, those before it have been -> logits (B, V) float32.

        Raises IndexError for a position beyond the cache, ValueError for a tensor of another shape or one that wants a
        gradient.
        """
        if not 0 <= position < self._positions:
            raise IndexError(f"The cache has {self._positions} positions, none with number {position}.")
        take("residual", residual, self._residual)
        take("rotation", rotation, self._rotation)
        self._step(position=position)
        return self._logits.clone()
