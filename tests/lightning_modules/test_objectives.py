"""What the objectives have in common: conditions left out, validated weights, random numbers, clipping and decay."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.base import TrainingModule
from lightning_modules.config import OBJECTIVES, OptimConfig
from lightning_modules.generators.config import GENERATORS

B, L, V = 4000, 4, 10


class Listener(nn.Module):
    """Keeps who goes without a condition; its answer depends on one weight alone."""

    mask_token = V
    config = SimpleNamespace(prediction="noise", learned_variance=False)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropped: list[Tensor] = []

    def embed_condition(self, condition: Tensor, drop: Tensor) -> None:
        self.dropped.append(drop)

    def forward(self, x: Tensor, context: None, timesteps: Tensor | None = None) -> Tensor:
        return self.weight * (nn.functional.one_hot(x % V, V).float() if timesteps is None else x)


def _module(name: str, optim: OptimConfig | None = None, seed: int = 0, **objective: Any) -> TrainingModule[Listener]:
    config = OBJECTIVES[name].config(**objective)
    optim = optim or OptimConfig()
    module = OBJECTIVES.target(name)(config, Listener(), optim, max_steps=1, ema_decay=0.9, seed=seed)
    module.log_dict = lambda values, **_: None
    return module


@pytest.mark.parametrize("name", ["masked", "autoregressive", "diffusion"])
def test_training_leaves_conditions_out_and_validation_asks_the_averaged_weights_with_all(name: str) -> None:
    module = _module(name, condition_dropout=0.1)
    batch = {"tokens": torch.zeros(B, L, dtype=torch.long), "latents": torch.zeros(B, 1, 1, 1), "label": torch.zeros(B)}
    assert module.ema is not None
    torch.manual_seed(0)
    module.training_step(batch, 0)
    assert not module.ema.dropped and module.model.dropped[0].float().mean().item() == pytest.approx(0.1, abs=0.02)
    module.on_validation_epoch_start()
    module.validation_step(batch, 0)
    assert len(module.model.dropped) == 1 and not module.ema.dropped[0].any()


@pytest.mark.parametrize("name", ["masked", "autoregressive", "diffusion"])
def test_losses_are_single_precision_whatever_the_network_computes_in(name: str) -> None:
    module, losses = _module(name), []
    batch = {"tokens": torch.arange(800).view(8, 100) % V, "latents": torch.randn(8, 4, 4, 4), "label": torch.zeros(8)}
    forward = module.model.forward
    for dtype in (torch.bfloat16, torch.float32):  # the same numbers
        module.model.forward = lambda *inputs, dtype=dtype: (forward(*inputs) / 3).bfloat16().to(dtype)
        torch.manual_seed(0)
        losses.append(module.training_step(batch, 0))
    assert losses[0].dtype == torch.float32 and losses[0] == losses[1]


def test_every_batch_of_every_step_of_every_process_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for seed, step, rank in product(range(3), (0, 1, 1000), range(3)):
        module = _module("masked", seed=seed)
        monkeypatch.setattr(type(module), "global_step", step)
        monkeypatch.setattr(type(module), "global_rank", rank)
        for batch in range(3):
            module.on_train_batch_start(None, batch)
            keys.append(torch.initial_seed())
        module._batch_of_step = 0
        module.on_train_batch_start(None, 7)  # as a run that goes on from here does, whatever the batch's number
        assert torch.initial_seed() == keys[-3]
    assert len(set(keys)) == len(keys) == 81


@pytest.mark.parametrize(("limit", "kept"), [(1.0, 1.0), (7.0, 5.0), (0.0, 5.0)])
def test_gradients_are_clipped_by_their_norm_which_is_logged_as_it_was(limit: float, kept: float) -> None:
    module = _module("masked", optim=OptimConfig(gradient_clip=limit))
    module.model.more = nn.Parameter(torch.zeros(2))
    module.model.weight.grad, module.model.more.grad = torch.tensor(3.0), torch.tensor([0.0, 4.0])
    logged: dict[str, Any] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module.all_gather = lambda values: values
    module.configure_gradient_clipping(module.build_optimizer(fused=False))
    norm = torch.cat([module.model.weight.grad[None], module.model.more.grad]).norm()
    assert norm.item() == pytest.approx(kept, rel=1e-4) and logged["train/grad_norm"] == 5
    assert logged["train/lr"] == module.optim.lr


@pytest.mark.parametrize("name", ["maskmamba", "aim", "llamagen", "dimba"])
def test_biases_norms_positions_and_what_sets_the_ssms_pace_do_not_decay(name: str) -> None:
    sizes = {"aim": {"vocab_size": 8, "num_classes": 3}, "dimba": {"latent_channels": 4, "condition": "class"}}
    known = {field.name for field in fields(GENERATORS[name].config)}
    own = sizes.get(name, {"vocab_size": 8, "heads": 4}) | {"grid_size": 4, "width": 32, "depth": 4, "heads": 4}
    network = GENERATORS.build(GENERATORS[name].config(**{key: value for key, value in own.items() if key in known}))
    module = TrainingModule(network, OptimConfig(), max_steps=1, ema_decay=0.0, seed=0)
    decayed, rest = ({id(p) for p in g["params"]} for g in module.build_optimizer(fused=False).param_groups)
    names = {key: id(parameter) for key, parameter in network.named_parameters()}
    assert len(decayed) + len(rest) == len(names)
    spared = re.compile(r"bias$|norm|\.A_log$|\.D$|position_(image|condition|embedding)")
    assert {key for key, number in names.items() if number in rest} == {key for key in names if spared.search(key)}
