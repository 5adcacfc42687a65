"""Operations as tables print them: exact numbers for small sizes, counted by hand."""

from __future__ import annotations

from lightning_modules.kernels import flops


def test_a_scan_counts_seven_per_state_and_five_per_channel() -> None:
    positions = 2 * 3 * 5 * 4  # batch, directions, length, channels
    assert flops.selective_scan(2, 3, 5, 4, 6) == positions * (7 * 6 + 5)
    assert flops.selective_scan(2, 3, 5, 4, 6, gates=3) == positions * (7 * 6 + 5) + 5 * 3 * (2 * 5 * 4)
    assert flops.selective_state_update(2, 4, 6, gate=True) == 2 * 4 * (7 * 6 + 5) + 5 * 2 * 4


def test_a_convolution_counts_two_per_tap_and_four_for_silu() -> None:
    """SiLU: an exponential, an addition, a division and a multiplication."""
    assert flops.depthwise_conv1d(2, 5, 4, 3, silu=False) == 2 * 5 * 4 * (2 * 3)
    assert flops.depthwise_conv1d(2, 5, 4, 3) == 2 * 5 * 4 * (2 * 3 + 4)
