"""Training steps and samplers on a GPU that is not there: fake tensors say "cuda", refuse to meet tensors of the CPU,
compute nothing, and have no values to give to the host. Without backward passes, which ask the driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.build import build_module
from experiments.config import load_config
from experiments.run_config import RunConfig
from lightning_modules.base import TrainingModule
from lightning_modules.conditions import Condition, TextFeatures
from lightning_modules.kernels import dispatch
from lightning_modules.layers.condition import example_condition
from lightning_modules.samplers import halton, maskgit
from lightning_modules.samplers.config import SAMPLERS
from lightning_modules.samplers.noise import Noise

GPU = torch.device("cuda", 0)
BATCH = 2
RUNS = {
    "maskmamba/demo": {"objective.mask_ratio": "mage", "sampler.steps": 2},
    "maskmamba/text-demo": {"sampler.name": "halton", "sampler.steps": 2},
    "aim/demo": {"generator.adaln_groups": 1, "generator.depth": 1, "sampler.top_k": 5, "sampler.top_p": 0.9},
    "aim/llamagen-demo": {"generator.depth": 1},
    "mmamba/demo": {"sampler.steps": 2},
    "mmamba/uvit-demo": {"sampler.steps": 2},
    "dimba/demo": {},
    "dimba/pixart-demo": {"objective.timesteps": "logit_normal"},
}


@pytest.mark.parametrize("preset", RUNS)
def test_training_and_sampling_stay_on_the_gpu(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch.triton, "missing", lambda: None)
    for sampler in (maskgit, halton):  # which ask that once a batch
        monkeypatch.setattr(sampler, "equal_count", lambda masked: masked.shape[1])
    config = load_config(preset, {"trainer.ema_decay": 0.9, "generator.depth": 4, **RUNS[preset]})
    module = build_module(config)
    logged: list[Tensor] = []
    module.log = module.log_dict = lambda values, *_, **__: logged.extend(dict(values).values())
    # A loss on hidden tokens alone asks how many there are; nothing else may.
    asks = config.objective.name == "masked"
    unknown = ShapeEnv(allow_dynamic_output_shape_ops=True, allow_scalar_outputs=True) if asks else None
    mode = FakeTensorMode(shape_env=unknown, static_shapes=True)
    with mode, torch.autocast("cpu", enabled=False):
        move(module, mode)
        condition, batch = inputs(config)
        module.training_step(batch, 0)
        assert all(value.device.type == "cuda" for value in logged) and len(logged) > 1
        module.on_validation_epoch_start()
        module.validation_step(batch, 0)
        if config.objective.name == "diffusion":  # its solver's table comes from numpy
            return
        draw: Any = SAMPLERS.build(config.sampler)
        if config.objective.name == "autoregressive":
            draw.config.cuda_graph = False
        tokens = draw(module.sampling_model.eval(), condition, Noise(0, torch.arange(BATCH, device=GPU)))
        assert tokens.device.type == "cuda" and tokens.shape == batch["tokens"].shape


DECODING = {
    "aim/demo": {"sampler.top_k": 5, "sampler.top_p": 0.9, "sampler.position_shift": "official"},
    "aim/llamagen-demo": {"sampler.guidance": 3, "sampler.guidance_schedule": "cosine", "sampler.temperature": 0},
}


class OnTheHost(TorchDispatchMode):
    """Names the operations that bring tensors of the host and of the GPU together, which a CUDA graph cannot hold. What
    is made and used on the host alone, such as a scalar that some PyTorch writes down first, is no part of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if {tensor.device.type for tensor in tensors} > {"cpu"}:
            self.found.append(str(operation))
        return result


@contextmanager
def half_precision() -> Iterator[None]:
    """Autocast to bfloat16 on a GPU that is not there, for which torch.autocast stays off."""
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("preset", DECODING)
def test_a_step_of_decoding_can_be_captured(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads nothing back, as other steps here, and sends nothing either; in bfloat16, as it is sampled."""
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch.triton, "missing", lambda: None)
    config = load_config(preset, {"generator.depth": 2, "sampler.cuda_graph": False, **DECODING[preset]})
    module = build_module(config)
    mode = FakeTensorMode(static_shapes=True)
    with mode, torch.inference_mode(), half_precision():
        move(module, mode)
        condition, _ = inputs(config)
        draw: Any = SAMPLERS.build(config.sampler)
        draw(module.sampling_model.eval(), condition, Noise(0, torch.arange(BATCH, device=GPU)))
        with OnTheHost() as seen:
            draw._decoding._step()
    assert draw._decoding.state.head.dtype == torch.bfloat16 and seen.found == []


def move(module: TrainingModule, mode: FakeTensorMode) -> None:
    """Fake twins of all tensors on the GPU take their places; shared ones stay shared."""
    twins: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) not in twins:
                fake = mode.from_tensor(parameter).detach().to(GPU)
                twins[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
            if parameter is not None:
                part._parameters[name] = twins[id(parameter)]
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else mode.from_tensor(buffer).to(GPU)
    if hasattr(module, "schedule"):
        module.schedule = type(module.schedule)(*(mode.from_tensor(table) for table in module.schedule))
    module._device = GPU


def inputs(config: RunConfig) -> tuple[Condition, dict[str, Any]]:
    """A condition, and a training batch with it, both on the GPU."""
    size = config.generator.grid_size
    batch: dict[str, Any] = {"tokens": torch.zeros(BATCH, size**2, dtype=torch.long, device=GPU)}
    if config.objective.name == "diffusion":
        batch = {"latents": torch.zeros(BATCH, config.generator.latent_channels, size, size, device=GPU)}
    example = example_condition(config.generator)
    parts = [None if part is None else part.to(GPU).expand(BATCH, *part.shape[1:]) for part in _parts(example)]
    condition = parts[0] if isinstance(example, Tensor) else TextFeatures(*parts)
    assert condition is not None
    return condition, batch | {"label" if isinstance(example, Tensor) else "text": condition}


def _parts(condition: Condition) -> tuple[Tensor | None, ...]:
    return (condition,) if isinstance(condition, Tensor) else tuple(condition)
