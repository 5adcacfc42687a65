"""The arguments and results of state space duality in the one form that every back end takes.

Shapes: B batch, L positions, H heads, P channels of a head, N states; c chunks of q positions.
"""

from typing import NamedTuple

from torch import Tensor


class SSDInputs(NamedTuple):
    """All of one dtype, float32 or, where the back end has it, float64."""

    x: Tensor  # (B, L, H, P)
    dt: Tensor  # (B, L, H), behind the softplus
    A: Tensor  # (H,)
    B: Tensor  # (B, L, N)
    C: Tensor  # (B, L, N)
    D: Tensor | None  # (H,)
    initial_state: Tensor | None  # (B, H, P, N)


class Saved(NamedTuple):
    """What a forward leaves for the backward; empty where none is wanted, or the back end needs none."""

    decay: Tensor  # (B, c, H, q, q) from position to position inside a chunk, zero from later ones
    before: Tensor  # (B, c, H, P, N) states before each chunk
    between: Tensor  # (B, c, q, H, P) what each position sees of them


SavedShapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Of `Saved`, in its order."""
SSDGradients = tuple[Tensor | None, ...]
"""Of `SSDInputs`, None where the input is None."""
