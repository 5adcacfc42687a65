"""Masked-token modelling: what a training step computes, and what it holds.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.config import MaskedConfig, OptimConfig
from lightning_modules.masked import MaskedModule, MaskRatio, hide

B, L, V = 4, 6, 10
ASKING = ("aten::nonzero", "aten::_local_scalar_dense")
"""Operations that give the host a number."""


class Half(nn.Module):
    """Logits (B, L, V) in bfloat16, as under autocast, from a table; keeps what it was given, and the last it gave."""

    mask_token = V

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V + 1, V, generator=torch.Generator().manual_seed(0)))
        self.given: list[Tensor] = []

    def embed_condition(self, condition: Tensor, drop: Tensor) -> None: ...

    def forward(self, tokens: Tensor, context: None) -> Tensor:
        self.given.append(tokens)
        self.logits = self.table.bfloat16()[tokens]
        return self.logits


class Widened(TorchDispatchMode):
    """Elements of the largest tensor that was converted to float32."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and result.dtype == torch.float32:
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_a_step_scores_what_is_hidden_and_widens_no_more(loss_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = MaskedConfig(loss_on=loss_on, mask_ratio_high=0.6)
    module = MaskedModule(objective, Half(), OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    tokens = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    with Widened() as widened:
        loss = module.training_step({"tokens": tokens, "label": torch.zeros(B, dtype=torch.long)}, 0)
    torch.manual_seed(2)
    masked = hide(MaskRatio(objective)(B, tokens.device), L)
    target = masked if loss_on == "masked" else torch.ones_like(masked)
    logits = module.model.logits.float()
    assert loss == F.cross_entropy(logits[target], tokens[target], label_smoothing=0.1)
    assert logged["train/accuracy"] == (logits[masked].argmax(-1) == tokens[masked]).float().mean()
    assert widened.most == target.sum() * V
    assert logged["train/loss_over_ln_v"].item() == pytest.approx(loss.item() / math.log(V))


@pytest.mark.parametrize(
    ("name", "bounds", "mean", "above"),
    [
        ("mage", (0.5, 1.0), 0.694, 0.08),
        ("uniform", (0.5, 1.0), 0.75, 0.2),
        ("uniform", (0.2, 0.95), 0.575, 0.05 / 0.75),
        ("cosine", (0.5, 1.0), 2 / math.pi, 2 / math.pi * math.acos(0.9)),
    ],
)
def test_masked_shares_follow_their_distribution(name: Any, bounds: tuple, mean: float, above: float) -> None:
    """Their mean, and how many are above 0.9."""
    torch.manual_seed(0)
    config = MaskedConfig(mask_ratio=name, ratio_per="sample", mask_ratio_low=bounds[0], mask_ratio_high=bounds[1])
    shares = MaskRatio(config)(50_000, torch.device("cpu"))
    assert shares.mean().item() == pytest.approx(mean, abs=0.003)
    assert (shares > 0.9).double().mean().item() == pytest.approx(above, abs=0.005)
    assert MaskRatio(replace(config, ratio_per="batch"))(50, torch.device("cpu")).unique().numel() == 1


def test_a_share_is_rounded_up_to_places_anywhere() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([0.0, 0.11, 0.2, 1.0])
    masked = hide(shares.repeat_interleave(5000), 10).unflatten(0, (4, 5000))
    assert [row.sum(-1).unique().tolist() for row in masked] == [[1], [2], [2], [10]]
    torch.testing.assert_close(masked[1].float().mean(0), torch.full((10,), 0.2), rtol=0, atol=0.03)


@torch.no_grad()
def test_a_validation_is_the_mean_over_all_hidden_tokens_which_each_batch_hides_elsewhere() -> None:
    objective = MaskedConfig(mask_ratio_high=0.6, ratio_per="sample", label_smoothing=0.1)
    module = MaskedModule(objective, Half(), OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.all_gather = lambda values: values
    tokens = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(1))
    found = []
    for _ in range(2):  # a later validation hides the same
        module.on_validation_epoch_start()
        for number in range(2):
            module.validation_step({"tokens": tokens, "label": torch.zeros(B, dtype=torch.long)}, number)
        module.on_validation_epoch_end()
        found.append({name: value.item() for name, value in logged.items()})
    hidden = [given == V for given in module.model.given]
    assert torch.equal(hidden[0], hidden[2]) and torch.equal(hidden[1], hidden[3])
    assert not torch.equal(hidden[0], hidden[1])
    logits = module.model.table.bfloat16()[V].float()  # of every hidden token
    answers = torch.cat([tokens[places] for places in hidden[:2]])
    loss = F.cross_entropy(logits.expand(len(answers), V), answers).item()
    accuracy = (answers == logits.argmax()).float().mean().item()
    expected = {"val/loss": loss, "val/bits_per_token": loss / math.log(2), "val/accuracy": accuracy}
    assert found == [pytest.approx(expected)] * 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_ratio_std": 0.0}, "mask_ratio_std=0.0 must be positive"),
        (
            {"mask_ratio_mean": 5.0},
            r"mask_ratio_mean=5.0 must be in \[mask_ratio_low, mask_ratio_high\] = \[0.5, 1.0\]",
        ),
        ({"mask_ratio_mean": -5.0}, "mask_ratio_mean=-5.0 must be in"),
        ({"mask_ratio_mean": math.nan}, "mask_ratio_mean=nan must be in"),
    ],
)
def test_a_distribution_without_spread_or_beside_its_bounds_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MaskedConfig(**settings)


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_the_device_is_asked_once_in_a_step(loss_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many tokens are hidden; on a GPU every question waits for all that was asked of it before."""
    module = MaskedModule(MaskedConfig(loss_on=loss_on), Half(), OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    monkeypatch.setattr(module, "log_dict", lambda values, **_: None)
    tokens = torch.zeros(B, L, dtype=torch.long)
    with torch.autograd.profiler.profile() as profile:
        module.training_step({"tokens": tokens, "label": torch.zeros(B, dtype=torch.long)}, 0)
    asked = [event.name for event in profile.function_events or [] if event.name in ASKING]
    assert asked == ["aten::nonzero"]
