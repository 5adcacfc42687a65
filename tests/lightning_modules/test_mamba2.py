"""The Mamba-2 mixer: its definition, whole sequences against single steps, padding, and the size of its state."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.layers.config import Mamba2Config
from lightning_modules.layers.mamba2 import Mamba2


def _mixer(**settings) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(32, Mamba2Config(**{"d_state": 8, "head_width": 16, **settings})).eval()


@torch.no_grad()
def test_it_is_the_published_definition() -> None:
    """Section 7.1 of arXiv 2405.21060 position by position; the norm's epsilon is that of the reference code."""
    mixer = _mixer().double()
    for parameter in (mixer.D, mixer.norm.weight):  # which start at 1
        torch.nn.init.normal_(parameter)
    u = torch.randn(2, 9, 32, dtype=torch.float64)
    z, xbc, dt = (u @ mixer.in_proj.weight.T).split([64, 64 + 2 * 8, 4], dim=-1)
    behind = F.pad(xbc, (0, 0, 3, 0))
    convolved = mixer.conv.bias + sum(behind[:, tap : tap + 9] * mixer.conv.weight[:, tap] for tap in range(4))
    x, B, C = F.silu(convolved).split([64, 8, 8], dim=-1)
    x, dt, A = x.unflatten(-1, (4, 16)), F.softplus(dt + mixer.dt_bias), -mixer.A_log.exp()
    state, outputs = torch.zeros(2, 4, 16, 8, dtype=torch.float64), []
    for now in range(9):
        arriving = torch.einsum("bh,bhp,bn->bhpn", dt[:, now], x[:, now], B[:, now])
        state = torch.exp(dt[:, now] * A)[..., None, None] * state + arriving
        outputs.append(torch.einsum("bhpn,bn->bhp", state, C[:, now]) + mixer.D[:, None] * x[:, now])
    gated = torch.stack(outputs, dim=1).flatten(2) * F.silu(z)
    normed = gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
    torch.testing.assert_close(mixer(u), normed @ mixer.out_proj.weight.T, rtol=1e-5, atol=1e-6)


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
