"""UViT or M-Mamba in parts, from the kernel to the whole network, all on the same batch (M-Mamba, slide 14).

The slide sets the time of Mamba's kernel beside that of attention blocks, projections included; here every part has a
time of its own. Shapes: B batch, T words, L positions, S positions of a scan, K directions, C width, D inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.cells.base import Phase
from experiments.benchmarks.cells.inputs import random_batch
from experiments.process import autocast
from experiments.run_config import RunConfig
from lightning_modules.generators.config import GENERATORS
from lightning_modules.generators.mmamba import MMamba
from lightning_modules.generators.muse import Muse
from lightning_modules.kernels import attend, selective_scan
from lightning_modules.layers.cross_scan import CrossScan


class PartsCell:
    """Forward phases `kernel`, `self_attention` or `mixer`, `cross_attention`, `layer`, `stack`, `network`.

    `parameters` are the stack's, as on the slide.
    """

    def __init__(self, config: RunConfig, device: torch.device):
        torch.manual_seed(config.seed)
        self._config, self._device = config, device
        model = GENERATORS.build(config.generator)
        if not isinstance(model, Muse):
            raise ValueError(
                f"benchmark.name=parts takes uvit and mmamba apart, not generator.name={model.config.name}."
            )
        batch = random_batch(config.generator, config.benchmark.batch_size, device)
        model = model.to(device).eval().requires_grad_(False)
        with torch.inference_mode(), autocast(config, device):
            drop = torch.zeros(config.benchmark.batch_size, dtype=torch.bool, device=device)
            self._context = model.embed_condition(batch["text"], drop)
            self._x = torch.randn(len(drop), config.generator.stack_grid**2, config.generator.width, device=device)
            calls = self._mamba_calls(model) if isinstance(model, MMamba) else self._transformer_calls(model)
        stack = model.layers if isinstance(model, MMamba) else model.amused.transformer_layers
        self.parameters = sum(p.numel() for p in stack.parameters())
        calls |= {
            "stack": lambda: model.stack(self._x, self._context),
            "network": lambda: model(batch["tokens"], self._context),
        }
        self.phases = {
            name: Phase(self._timed(call), f"seconds_{name}", "peak_memory_bytes") for name, call in calls.items()
        }

    def _timed(self, call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), autocast(self._config, self._device):
                call()

        return run

    def _mamba_calls(self, model: MMamba) -> dict[str, Callable[[], Any]]:
        layer, x, (text, pooled, mask, _) = model.layers[0], self._x, self._context
        calls = {
            "kernel": scan_call(layer.mixer, len(x), text),
            "mixer": lambda: layer.mixer(text, x, pooled, mask),
        }
        if (attention := layer.attention) is not None:
            calls["cross_attention"] = lambda: attention(x, text, mask)
        return calls | {"layer": lambda: layer(text, x, pooled, mask)}

    def _transformer_calls(self, model: Muse) -> dict[str, Callable[[], Any]]:
        layer, x, (text, pooled, *_) = model.amused.transformer_layers[0], self._x, self._context
        q = torch.randn(len(x), layer.attn1.heads, x.shape[1], x.shape[2] // layer.attn1.heads, device=x.device)
        q = q.to(text.dtype)
        extra = {"pooled_text_emb": pooled}
        return {
            "kernel": lambda: attend(q, q, q),
            "self_attention": lambda: layer.attn1(x),
            "cross_attention": lambda: layer.attn2(x, encoder_hidden_states=text),
            "layer": lambda: layer(x, encoder_hidden_states=text, added_cond_kwargs=extra),
        }


def scan_call(mixer: CrossScan, batch: int, like: Tensor) -> Callable[[], Tensor]:
    """The selective scan of a mixer alone, all directions, on random inputs (B, S, D) like a tensor."""
    ssm, order = mixer.ssm, mixer.order
    count, length = order.shape
    inner, states = ssm.A_log.shape[1:]

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=like.device).to(like.dtype)

    u, delta = normal(batch, length, inner), normal(batch, count, length, inner)
    B, C = normal(batch, count, length, states), normal(batch, count, length, states)
    A, D, bias = (nn.Parameter(p.expand(count, *p.shape[1:]), False) for p in (-ssm.A_log.exp(), ssm.D, ssm.dt_bias))
    return lambda: selective_scan(u, delta, A, B, C, D, None, bias, order=order)
