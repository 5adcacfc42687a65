"""A step of a whole Mamba-2 stack in C++: fills the structures of source/mamba2_decode.h once, calls each step.

Shapes: see source/mamba2_decode.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.kernels.cpp.decode import Step, check_batch, check_layers, check_tensor, take


class Mamba2Decoder:
    """Residual stream (B, M) of the newest token -> logits (B, V); the layers' windows and states move on in place.

    Args:
        layers: for every layer, by name: in_proj (R, M), out_proj (M, D), window (B, k - 1, W) in the type of decoding
            (float32 or bfloat16); taps (k, W), conv_bias (W,), dt_bias, A, skip (H,), norm (D,), shift, scale, gate
            (B, M), state (B, H, P, N) in float32.
        norm, final_shift, final_scale: (M,), (B, M), (B, M) float32.
        head: (V, M) in the type of decoding.
        epsilon: of every RMS norm.

    The tensors are held, and read where they lie: whoever writes into shift, scale, gate, window or state in place
    changes the next step.

    Raises:
        ValueError: a tensor that is not contiguous or not of the type and shape above, or more samples than
            `decode.MAX_BATCH`.
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
        width, taps = first["in_proj"].shape[1], len(first["taps"])
        inner = heads * channels
        convolved = inner + 2 * states
        rows = inner + convolved + heads
        check_batch(batch)
        shapes: dict[str, tuple[int, ...]] = {  # mamba2::Layer, in order
            "in_proj": (rows, width),
            "out_proj": (width, inner),
            "taps": (taps, convolved),
            "conv_bias": (convolved,),
            **dict.fromkeys(("dt_bias", "A", "skip"), (heads,)),
            "norm": (inner,),
            **dict.fromkeys(("shift", "scale", "gate"), (batch, width)),
            "window": (batch, taps - 1, convolved),
            "state": (batch, heads, channels, states),
        }
        check_layers(layers, shapes, dict.fromkeys(("in_proj", "out_proj", "window"), head.dtype))
        check_tensor("norm", norm, torch.float32, (width,))
        check_tensor("final_shift", final_shift, torch.float32, (batch, width))
        check_tensor("final_scale", final_scale, torch.float32, (batch, width))
        check_tensor("head", head, head.dtype, (len(head), width))
        threads = torch.get_num_threads()
        sizes = {
            "batch": batch,
            "width": width,
            "inner": inner,
            "heads": heads,
            "states": states,
            "taps": taps,
            "vocabulary": len(head),
            "layers": len(layers),
            "threads": threads,
        }
        self._residual, self._logits = torch.empty(batch, width), torch.empty(batch, len(head))
        tensors = {
            "norm": norm,
            "final_shift": final_shift,
            "final_scale": final_scale,
            "head": head,
            "residual": self._residual,
            "scratch": torch.empty(batch * (rows + convolved + inner) + threads * (batch + 1) * max(width, inner)),
            "logits": self._logits,
        }
        ordered = ([layer[name] for name in shapes] for layer in layers)
        self._step = Step("mamba2_decode", ordered, sizes, epsilon, tensors)

    def __call__(self, residual: Tensor) -> Tensor:
        """residual: (B, M) -> logits (B, V) float32.

        Raises ValueError for another shape, or where it wants a gradient.
        """
        take("residual", residual, self._residual)
        self._step()
        return self._logits.clone()
