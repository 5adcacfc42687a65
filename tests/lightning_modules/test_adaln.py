"""Adaptive layer norm: who shares which projection, tables, and both starts."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.layers.adaln import AdaLN, modulate


def _adaln(depth: int, groups: int, **settings) -> AdaLN:
    torch.manual_seed(0)
    return AdaLN(8, depth, groups, **{"vectors": 3, "tables": False, "init": "random", **settings})


@pytest.mark.parametrize(
    ("layout", "depth", "groups", "expected"),
    [
        ("interleaved", 7, 3, (0, 1, 2, 0, 1, 2, 0)),
        ("contiguous", 7, 3, (0, 0, 0, 1, 1, 2, 2)),
        ("contiguous", 8, 4, (0, 0, 1, 1, 2, 2, 3, 3)),
        ("interleaved", 4, 1, (0, 0, 0, 0)),
        ("contiguous", 4, 4, (0, 1, 2, 3)),
    ],
)
def test_groups_of_layers(layout: str, depth: int, groups: int, expected: tuple[int, ...]) -> None:
    adaln = _adaln(depth, groups, layout=layout)
    assert adaln.group_of_layer == expected
    modulation = adaln(torch.randn(2, 8))
    assert modulation.shape == (depth, 2, 3, 8)
    for i in range(depth):
        for j in range(depth):
            assert torch.equal(modulation[i], modulation[j]) == (expected[i] == expected[j])


def test_tables_tell_the_layers_of_a_group_apart() -> None:
    adaln = _adaln(4, 1, tables=True)
    modulation = adaln(torch.randn(2, 8))
    torch.testing.assert_close(
        modulation - adaln.table[:, None], modulation[:1] - adaln.table[:1, None].expand(4, 2, 3, 8)
    )
    assert not torch.allclose(modulation[0], modulation[1])


def test_zero_start_is_neutral_but_learns() -> None:
    adaln = _adaln(2, 2, tables=True, init="zero")
    modulation = adaln(torch.randn(2, 8))
    assert modulation.abs().max() == 0
    modulation.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in adaln.parameters())


def test_modulate() -> None:
    x, shift, scale = torch.randn(2, 5, 8), torch.randn(2, 8), torch.randn(2, 8)
    torch.testing.assert_close(modulate(x, shift, scale)[1, 3], x[1, 3] * (1 + scale[1]) + shift[1])
