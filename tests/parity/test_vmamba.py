"""`cross_scan` without text against the official VMamba: orders of scan and merge, SS2D's output and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.layers.config import CrossScanConfig
from lightning_modules.layers.cross_scan import CrossScan
from lightning_modules.layers.scan_order import image_orders
from tests.parity.fixtures import load

FIXTURE = load("vmamba_tiny.pt")
MIXERS = [name for name, case in FIXTURE.items() if "state_dict" in case]
BACKENDS = ["reference", "torch", "auto"]


def test_scan_order_is_the_official_one() -> None:
    case = FIXTURE["cross_scan"]
    x = case["inputs"]["x"].clone().requires_grad_()
    order = image_orders(*x.shape[2:], directions=4)
    assert torch.equal(order, case["order"])
    scanned = x.flatten(2)[:, :, order].transpose(1, 2)
    assert torch.equal(scanned, case["outputs"]["y"])
    scanned.square().sum().backward()
    torch.testing.assert_close(x.grad, case["grad_x"])


def test_outputs_of_the_scans_sum_at_their_positions() -> None:
    case = FIXTURE["cross_merge"]
    y = case["inputs"]["y"]
    order = image_orders(*y.shape[3:], directions=4)
    merged = sum(y[:, k].flatten(2)[:, :, order[k].argsort()] for k in range(4))
    torch.testing.assert_close(merged, case["outputs"]["x"])


def _mixer(case: dict, state: dict) -> CrossScan:
    config = CrossScanConfig(text="none", d_state=case["config"]["d_state"], expand=case["config"]["ssm_ratio"])
    mixer = CrossScan(case["config"]["d_model"], config, tuple(case["inputs"]["x"].shape[1:3]), words=0)
    _load(mixer, state)
    return mixer


def _load(mixer: CrossScan, state: dict[str, Tensor]) -> None:
    """An SS2D in the layout of the official VMamba checkpoints (`x_proj_weight`, `A_logs`, ...)."""
    state = dict(state)
    names = {"x_proj_weight": "x_proj", "dt_projs_weight": "dt_proj", "dt_projs_bias": "dt_bias"}
    own = {f"ssm.{ours}": state.pop(theirs) for theirs, ours in names.items()}
    for theirs, parameter in (("A_logs", "A_log"), ("Ds", "D")):
        own[f"ssm.{parameter}"] = state.pop(theirs).view_as(getattr(mixer.ssm, parameter))
    mixer.load_state_dict(own | {key.replace("out_norm.", "norm."): value for key, value in state.items()})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MIXERS)
def test_mixer_is_equal_to_official(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_KERNELS", f"selective_scan={backend}")
    case = FIXTURE[name]
    mixer = _mixer(case, case["state_dict"])
    x = case["inputs"]["x"].clone().requires_grad_()
    _, y = mixer(x.new_zeros(len(x), 0, x.shape[-1]), x.flatten(1, 2))
    expected = case["outputs"]["y"]
    torch.testing.assert_close(y.unflatten(1, expected.shape[1:3]), expected, rtol=1e-4, atol=1e-5)
    y.square().mean().backward()  # the loss that the official gradients are of
    # The map that loads weights carries the official gradients over to this layout.
    theirs = _mixer(case, {key: value for key, value in case["grads"].items() if key != "x"})
    torch.testing.assert_close(x.grad, case["grads"]["x"], rtol=1e-4, atol=1e-6)
    for (key, ours), other in zip(mixer.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.data, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}")
