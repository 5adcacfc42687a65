"""The Mamba-2 mixer: whole sequences against single steps, padding, and the size of its state."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.layers.config import Mamba2Config
from lightning_modules.layers.mamba2 import Mamba2


def _mixer(**settings) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(32, Mamba2Config(**{"d_state": 8, "head_width": 16, **settings})).eval()


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("d_conv", [2, 4])
def test_steps_equal_the_sequence(backend: str, d_conv: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", backend)
    mixer = _mixer(d_conv=d_conv)
    u = torch.randn(2, 80, 32)  # longer than a chunk of the kernel
    with torch.no_grad():
        expected = mixer(u)
        state = mixer.new_state(2)
        stepped = torch.stack([mixer.step(u[:, i], state) for i in range(80)], dim=1)
    torch.testing.assert_close(stepped, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", [1, 2, 3, 9])
def test_a_sequence_goes_on_in_steps(prefix: int) -> None:
    mixer = _mixer()
    u = torch.randn(2, 12, 32)
    state = mixer.new_state(2)
    with torch.no_grad():
        torch.testing.assert_close(mixer(u[:, :prefix], state=state), mixer(u)[:, :prefix], rtol=1e-5, atol=1e-5)
        stepped = torch.stack([mixer.step(u[:, i], state) for i in range(prefix, 12)], dim=1)
        torch.testing.assert_close(stepped, mixer(u)[:, prefix:], rtol=1e-5, atol=1e-5)


def test_padding_in_front_leaves_no_trace() -> None:
    mixer = _mixer()
    u = torch.randn(2, 10, 32)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, :4] = False
    y = mixer(u, mask)
    torch.testing.assert_close(y[0, 4:], mixer(u[:1, 4:])[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(y[1], mixer(u[1:])[0], rtol=1e-5, atol=1e-6)
    u.requires_grad_()
    mixer(u, mask).sum().backward()
    assert torch.isfinite(u.grad).all()


def test_the_state_does_not_grow() -> None:
    mixer = _mixer()
    state = mixer.new_state(3)
    assert state.window.shape == (3, 3, 64 + 16)
    assert state.ssm.shape == (3, 4, 16, 8)
    places = [tensor.data_ptr() for tensor in state]
    with torch.no_grad():
        for _ in range(5):
            mixer.step(torch.randn(3, 32), state)
    assert [tensor.data_ptr() for tensor in state] == places


def test_start_of_decay_and_step_size() -> None:
    mixer = Mamba2(64, Mamba2Config(head_width=1))
    assert 1 <= mixer.A_log.exp().min() and mixer.A_log.exp().max() <= 16
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert 1e-4 <= dt.min() and dt.max() <= 0.11
