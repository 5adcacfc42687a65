"""The ends of residual branches, as modules."""

import torch

from lightning_modules.layers.residual import Dropout, Residual


def test_elements_are_dropped_in_training_alone() -> None:
    x, h = torch.randn(2, 50, 40), torch.ones(2, 50, 40)
    dropout, residual = Dropout(0.25), Residual(0.25)
    for kept in (dropout(h), residual(x, h) - x):
        assert abs((kept < 0.5).float().mean().item() - 0.25) < 0.05
    assert torch.equal(dropout.eval()(h), h)
    assert torch.equal(residual.eval()(x, h), x + h)
    assert repr(dropout) == "Dropout(dropout=0.25)" and repr(residual) == "Residual(dropout=0.25)"
