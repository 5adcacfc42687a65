"""`ablate bench decode`: one token more from AiM's recurrent state and from LlamaGen's key-value cache, random weights.

The limit of a small batch is reading the weights and what is remembered of the tokens before, once per token. The floor
is as many bytes read in the same turns, since what neighbours leave of the memory's bandwidth changes by the minute (on
a GPU, at the bandwidth measured before), or the multiply-adds, where they take longer; a cache that holds what is
remembered can be faster than it. Drawing from logits is left out.
Tokens in the middle of the sequence are timed, where a cache is half full.

Shapes: B batch (2 is one image under guidance), L tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from experiments.benchmarks.bench import Bench, Row
from experiments.benchmarks.measure import Contender, floor_ms, interleave, machine
from experiments.benchmarks.problem import forced, verify
from experiments.config import load_config
from experiments.errors import UserError
from lightning_modules.generators.config import GENERATORS
from lightning_modules.kernels import reset_backends_used
from lightning_modules.kernels.cpp.machine import reader
from lightning_modules.precision import exact_float32

if TYPE_CHECKING:
    from lightning_modules.generators.aim import AiM
    from lightning_modules.generators.llamagen import LlamaGen

    Generator = AiM | LlamaGen

Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
PHASE = "one token"
MIDDLE = 20
"""Tokens to either side of the middle that are fed while it is timed."""
READING = "reading alone"
"""As many bytes as the first preset's step moves."""
CHECKED = 8
"""Tokens of the check against the whole sequence in float64."""
TOLERANCES = {"fp32 logits": 1e-5, "bf16 logits": 0.1}
"""Largest errors, relative to the largest logit. Bfloat16 has three digits, and rounds them in every layer."""
LAYER_BY_LAYER = (
    "mamba2_decode=torch,transformer_decode=torch,depthwise_conv1d_update=torch,rms_norm=torch,swiglu=torch,"
    "linear=torch"
)


def decode(
    presets: Sequence[str] = ("aim/b", "aim/llamagen-b"),
    batches: Sequence[int] = (1, 2),
    precisions: Sequence[Precision] = ("fp32", "bf16"),
    seconds: float = 8.0,
) -> Bench:
    """presets: of autoregressive generators. seconds: time spent per batch size and precision. Every preset is also
    measured eagerly, layer by layer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with exact_float32(device):  # reading the weights is what takes the time, so fp32 may as well be fp32
        return _decode({preset: _build(preset, device) for preset in presets}, batches, precisions, seconds)


def _decode(
    models: dict[str, Generator], batches: Sequence[int], precisions: Sequence[Precision], seconds: float
) -> Bench:
    baseline = next(iter(models))
    bench = Bench("decode", "One token, random weights", baseline=baseline, machine=machine(torch.get_num_threads()))
    sizes = {preset: _weights_read(model) for preset, model in models.items()}
    bench.notes += [f"{preset}: {size:,} weights read for every token" for preset, size in sizes.items()]
    cases = list(itertools.product(precisions, batches))
    for precision, batch in cases:
        for name, decoder in _contenders(models, batch, precision):
            check = f"{name}, {precision} logits"
            verify(bench, {check: max(_error(decoder, batch), bench.checks.get(check, 0.0))}, TOLERANCES)
    reset_backends_used()
    for precision, batch in cases:
        contenders = dict(_contenders(models, batch, precision))
        for decoder in contenders.values():
            decoder.stay_in_the_middle()
        case = f"B={batch} {precision}"
        work = {name: batch * sizes[decoder.preset] for name, decoder in contenders.items()}
        moved = {
            name: sizes[decoder.preset] * PRECISIONS[precision].itemsize + _memory_moved(decoder.state)
            for name, decoder in contenders.items()
        }
        rows = _in_turns(case, contenders, bench, seconds, work, moved)
        bench.rows += rows
        rates = ", ".join(
            f"{row.contender} {1e3 * batch / row.median_ms:,.0f}" for row in rows if row.contender in contenders
        )
        bench.notes.append(f"{case}, tokens/s of all rows: {rates}")
    return bench


def _in_turns(
    case: str,
    contenders: Mapping[str, Contender],
    bench: Bench,
    seconds: float,
    work: Mapping[str, int],
    moved: Mapping[str, int],
) -> list[Row]:
    """Rows with their floors, by what reading alone takes in the same turns.

    Args:
        work, moved: contender -> multiply-adds and bytes of a step.
    """
    limits, size = bench.machine, moved[bench.baseline]
    read_too = not torch.cuda.is_available() and limits["bytes_per_s"] is not None
    calls = {**contenders, READING: reader(size, limits["threads"])} if read_too else contenders
    rows = interleave(case, PHASE, calls, baseline=bench.baseline, seconds=seconds)
    if read_too:
        limits = {**limits, "bytes_per_s": 1e3 * size / rows[-1].fastest_ms}
    floors = {n: floor_ms(limits, multiply_adds=work[n], bytes_moved=moved[n]) for n in contenders}
    return [replace(row, floor_ms=floors.get(row.contender)) for row in rows]


class Decoder:
    """A generator in the middle of a sequence; a call feeds one token.

    Args:
        forced: back ends, as the environment variable names them.
        graph: replay the step as a CUDA graph.
    """

    def __init__(
        self, preset: str, model: Generator, batch: int, precision: str, forced: str = "", graph: bool = False
    ):
        self.preset, self.model, self.forced = preset, model, forced
        self.length = model.config.grid_size**2
        self.device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(model.config.vocab_size, (batch, self.length), generator=generator).to(self.device)
        labels = torch.arange(batch, device=self.device) % model.config.num_classes
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.inference_mode():
            self.context = model.embed_condition(labels, torch.zeros_like(labels, dtype=torch.bool))
        self.token = self.tokens[:, 0].clone()
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        self.state: Any = None
        self.done = self.first = 0
        self.last = self.length - 1
        self.graph: torch.cuda.CUDAGraph | None = None
        self.restart()
        if graph:
            self._capture()

    @torch.inference_mode()
    def restart(self) -> Tensor:
        """Back to the beginning, in the same state tensors; logits (B, V) of token 0."""
        with self.precision, forced(self.forced):
            self.state, logits = self.model.start(self.context, self.length, len(self.tokens), into=self.state)
        self.position.zero_()
        self.done = 0
        return logits

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Feed the next token -> logits (B, V) of the one after it."""
        if self.done == self.last:
            self._skip_to(self.first)
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()
        self.done += 1
        return self.logits

    def stay_in_the_middle(self) -> None:
        """Feed tokens of the middle of the sequence from now on, over and over."""
        middle = self.length // 2
        self.first, self.last = max(0, middle - MIDDLE), min(self.length - 1, middle + MIDDLE)
        self._skip_to(self.first)

    @torch.inference_mode()
    def _skip_to(self, position: int) -> None:
        """Go on as if so many tokens had been fed; what would be remembered of them is left as it is."""
        self.position.fill_(position)
        self.done = position
        if hasattr(self.state, "cursor"):  # LlamaGen's cache, behind its condition
            filled = self.context.embedding.shape[1] + position
            self.state.cursor.fill_(filled)
            self.state.visible[..., :filled] = True
            self.state.visible[..., filled:] = False

    def _step(self) -> None:
        token = self.tokens.index_select(1, self.position)[:, 0]
        with forced(self.forced):
            self.logits = self.model.step(token, self.state, self.position)
        self.position.add_(1)

    def _capture(self) -> None:
        for _ in range(2):
            self()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            self._step()
        self.graph = graph


def _contenders(models: dict[str, Generator], batch: int, precision: str) -> Iterator[tuple[str, Decoder]]:
    """Every preset as it is sampled from, and step by step in plain PyTorch."""
    graph = torch.cuda.is_available()
    for preset, model in models.items():
        yield preset, Decoder(preset, model, batch, precision, graph=graph)
        yield f"{preset} eager", Decoder(preset, model, batch, precision, forced=LAYER_BY_LAYER)


def _build(preset: str, device: torch.device) -> Generator:
    """Random weights, also where a fresh model has zeros: nothing may be skipped, and the check must see everything."""
    config = load_config(preset)
    if config.objective.name != "autoregressive":
        raise UserError(f"The benchmark decodes autoregressive generators, and {preset} is {config.objective.name}.")
    torch.manual_seed(0)
    model = GENERATORS.build(config.generator).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model.to(device)


def _weights_read(model: Generator) -> int:
    """Weights of all matrix products of a step: those in the layers, and the output projection."""
    inside = sum(m.weight.numel() for m in model.layers.modules() if isinstance(m, nn.Linear))
    return inside + model.config.vocab_size * model.config.width


def _memory_moved(state: Any) -> int:
    """Bytes: AiM's state, read and written, or LlamaGen's cache, read: in one call as far as it is filled, half where
    it is timed, layer by layer all of it, masked."""
    layers = state.layers
    if hasattr(layers[0], "mixer"):
        return 2 * sum(layer.mixer.window.nbytes + layer.mixer.ssm.nbytes for layer in layers)
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    return cache if state.decode is None else cache // 2


def _error(decoder: Decoder, batch: int) -> float:
    """Largest deviation of stepwise logits from those of the whole sequence in float64, over the largest logit."""
    exact = copy.deepcopy(decoder.model).double()
    tokens = decoder.tokens[:, : CHECKED + 1]
    labels = torch.arange(batch, device=tokens.device) % exact.config.num_classes
    with torch.inference_mode():
        true = exact(tokens, exact.embed_condition(labels, torch.zeros_like(labels, dtype=torch.bool)))
    steps = [decoder.restart().clone(), *(decoder().clone() for _ in range(CHECKED))]
    return ((torch.stack(steps, 1).double() - true).abs().max() / true.abs().max()).item()
