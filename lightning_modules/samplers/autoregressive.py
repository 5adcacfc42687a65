"""Token by token in raster order, from a state of fixed size or a key-value cache; on a GPU as one replayed graph.

A step feeds the last token, combines both halves of the guided batch on logits, draws the next token and moves the
position on, all on the device: nothing is read back and no buffer is allocated before the last token is drawn.

Shapes: B samples, R rows of the generator's batch (2 B under guidance, else B), L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.conditions import Condition, repeat_condition
from lightning_modules.samplers.config import AutoregressiveSamplerConfig
from lightning_modules.samplers.draw import draw_tokens
from lightning_modules.samplers.guidance import guidance_scale
from lightning_modules.samplers.noise import Noise

EAGER_STEPS = 2
"""Steps before the capture of a CUDA graph: libraries set themselves up in their first calls."""


class AutoregressiveGenerator(Protocol):
    """What the sampler needs of a generator; see `lightning_modules.generators.llamagen` for the details."""

    config: Any

    def embed_condition(self, condition: Condition, drop: Tensor) -> Any:
        """Labels (B,) or text features, and who goes without (B,) bool -> the context of `start`."""

    def start(self, context: Any, length: int, batch: int, into: Any = None) -> tuple[Any, Tensor]:
        """The state before the first of `length` tokens, and their logits (B, V)."""

    def step(self, tokens: Tensor, state: Any, position: int | Tensor) -> Tensor:
        """Tokens (B,) -> logits (B, V) of the next; the state moves on in place."""


class AutoregressiveSampler:
    """See the module; `config` holds the settings. One sampler serves one set of weights."""

    def __init__(self, config: AutoregressiveSamplerConfig):
        self.config = config
        self._decoding: Decoding | None = None

    @torch.inference_mode()
    def __call__(
        self, generator: AutoregressiveGenerator, condition: Condition, noise: Noise, known: Tensor | None = None
    ) -> Tensor:
        """Draw all tokens.

        Args:
            generator: in eval mode.
            condition: of the B samples.
            noise: the batch's randomness.
            known: must be None.

        Returns:
            tokens (B, L) int64.

        Raises:
            ValueError: tokens are known: those before them could not be drawn in their light.
        """
        if known is not None:
            raise ValueError(
                "An autoregressive generator draws tokens in raster order and cannot fill in parts of an image; "
                "take a run with objective.name=masked for that."
            )
        count = len(noise.keys)
        drop = torch.zeros(count, dtype=torch.bool, device=noise.keys.device)
        if self.config.guidance != 1:
            condition, drop = repeat_condition(condition), torch.cat([drop, ~drop])
        context = generator.embed_condition(condition, drop)
        shape = context.embedding.shape
        if self._decoding is None or not self._decoding.fits(generator, shape):
            self._decoding = Decoding(self.config, generator, count, shape, drop.device)
        return self._decoding.run(context, noise.uniform(self._decoding.length)).clone()


class Decoding:
    """The buffers of one batch while its tokens are drawn; used again for batches of the same shape.

    Args:
        count: B.
        shape: (R, T, C) of the embedded condition.
    """

    def __init__(
        self,
        config: AutoregressiveSamplerConfig,
        generator: AutoregressiveGenerator,
        count: int,
        shape: torch.Size,
        device: torch.device,
    ):
        self.config, self.generator, self.shape = config, generator, shape
        self.length = generator.config.grid_size**2
        self.tokens = torch.zeros(count, self.length, dtype=torch.long, device=device)
        self.uniform = torch.zeros(count, self.length, device=device)
        self.scale = torch.tensor(guidance_scales(config, self.length), device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.state: Any = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def fits(self, generator: AutoregressiveGenerator, shape: torch.Size) -> bool:
        """Whether these buffers, and the captured graph, serve such a batch."""
        return self.generator is generator and self.shape == shape

    def run(self, context: Any, uniform: Tensor) -> Tensor:
        """Draw all tokens (B, L) under an embedded condition; uniform: (B, L)."""
        self.uniform.copy_(uniform)
        self.position.zero_()
        self.state, logits = self.generator.start(context, self.length, self.shape[0], into=self.state)
        self._draw(logits)
        for done in range(1, self.length):
            if self.graph is not None:
                self.graph.replay()
                continue
            if self.config.cuda_graph and self.tokens.is_cuda and done > EAGER_STEPS:
                self._capture()
            else:
                self._step()
        return self.tokens

    def _capture(self) -> None:
        """Record one step, then make it."""
        graph = torch.cuda.CUDAGraph()
        # Other threads, which pin memory for the loader say, may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        self.graph = graph
        graph.replay()

    def _step(self) -> None:
        last = self.tokens.index_select(1, self.position)[:, 0]
        shift = 1 if self.config.position_shift == "official" else 0
        logits = self.generator.step(last.repeat(self.shape[0] // len(last)), self.state, self.position + shift)
        self.position.add_(1)
        self._draw(logits)

    def _draw(self, logits: Tensor) -> None:
        """Logits (R, V) -> the token at `position`."""
        c = self.config
        if c.guidance != 1:
            conditional, unconditional = logits.float().chunk(2)
            logits = torch.lerp(unconditional, conditional, self.scale.index_select(0, self.position))
        uniform = self.uniform.index_select(1, self.position)
        drawn, _ = draw_tokens(logits[:, None], uniform, c.temperature, c.top_k, c.top_p)
        self.tokens.index_copy_(1, self.position, drawn)


def guidance_scales(config: AutoregressiveSamplerConfig, length: int) -> list[float]:
    """Guidance of each token: by the schedule inside the interval, 1 (off) outside.

    >>> guidance_scales(AutoregressiveSamplerConfig(guidance=3, guidance_interval=[0.5, 1]), 3)
    [1.0, 3.0, 3.0]
    """
    low, high = config.guidance_interval
    progress = [k / max(1, length - 1) for k in range(length)]
    return [
        float(guidance_scale(config.guidance, config.guidance_schedule, p)) if low <= p <= high else 1.0
        for p in progress
    ]
