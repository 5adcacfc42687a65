"""Random numbers that depend on (seed, sample index, draw, element) alone.

Sample 17 of seed 0 is the same image whatever the batch size, the number of devices, or the order of evaluation. The
generator is a counter hashed by splitmix64's finaliser, in integer tensor operations that agree on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MIX1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """An integer of any size, wrapped around to 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser; int64 products wrap around."""
    x = (x ^ _shift(x, 30)) * _MIX1
    x = (x ^ _shift(x, 27)) * _MIX2
    return x ^ _shift(x, 31)


class Noise:
    """The randomness of a batch of samples.

    Args:
        seed: one per evaluation.
        indices: (B,) int64, the samples' numbers in the whole evaluation.
    """

    def __init__(self, seed: int, indices: Tensor):
        self.keys = _mix(_mix(indices.long() + 1) + _signed(seed * _GOLDEN))
        self._draws = 0

    def uniform(self, size: int) -> Tensor:
        """The next draw: (B, size) float32 in the open interval (0, 1)."""
        self._draws += 1
        counters = torch.arange(1, size + 1, device=self.keys.device) + (self._draws << 32)
        bits = _shift(_mix(self.keys[:, None] + counters * _GOLDEN), 41)  # 23 bits: every value is exact in float32
        return (bits.float() + 0.5) * 2.0**-23

    def skip(self, draws: int) -> None:
        """Leave out so many draws: those that follow are the same as if they had been made."""
        self._draws += draws

    def normal(self, size: int) -> Tensor:
        """The next draw from the standard normal distribution, (B, size) float32."""
        return torch.special.ndtri(self.uniform(size))

    def gumbel(self, size: int) -> Tensor:
        """The next draw from the standard Gumbel distribution, (B, size) float32."""
        return -torch.log(-torch.log(self.uniform(size)))
