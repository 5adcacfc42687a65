"""`ablate bench layer`: one Bi-Mamba-V2, Bi-Mamba or Transformer layer over sequence lengths (MaskMamba, Figure 7).

Pairings, at equal width: a Bi-Mamba-V2 layer has no MLP and about a fifth of a Transformer layer's parameters, so the
attention sublayer alone is measured as well. Shapes: B batch, L positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.benchmarks.bench import FORWARD, TRAINING, Bench
from experiments.benchmarks.cells.base import trainable_parameters
from experiments.benchmarks.cells.layer import build_layer
from experiments.benchmarks.config import LayerBenchmarkConfig
from experiments.benchmarks.measure import interleave, machine
from experiments.benchmarks.problem import FLOAT32, fitting, forced, relative_errors, verify
from experiments.benchmarks.work import NOTE, floor_of, layer_moves
from lightning_modules.backends import SELECTIVE_SCAN
from lightning_modules.kernels import reset_backends_used

LENGTHS = (64, 256, 1024, 4096, 16384)
LONGEST_TRAINED = 4096
"""On a CPU: beyond, a step of attention takes most of a minute."""
BASELINE = "Bi-Mamba-V2"
LAYERS = {
    BASELINE: "bi_mamba_v2",
    "Bi-Mamba (Vim)": "bi_mamba",
    "attention sublayer": "attention",
    "Transformer layer": "transformer",
}
CHECKED = 33
"""Positions of the check against the definition."""
TOLERANCES = {"cpu": FLOAT32, "cuda": {"output": 1e-2, "gradients": 5e-2}}
"""On a GPU the layers run in bfloat16, which rounds every factor and result by up to 2^-9, several times in a row."""
FLIPS = f"{BASELINE}, mamba-ssm with flips"
"""The same layer as the published vision models run it, where the package is installed."""


def layer(
    lengths: Sequence[int] = LENGTHS, batch: int = 1, width: int = 1024, heads: int = 16, seconds: float = 6.0
) -> Bench:
    """seconds: time spent per length and phase. Weights are random, dropout is off. On a CPU in float32, on a GPU in
    bfloat16 autocast, without which attention had none of its fast kernels there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {
        name: build_layer(LayerBenchmarkConfig(layer=layer, width=width, heads=heads)) for name, layer in LAYERS.items()
    }
    title = f"One layer, C={width}, B={batch}, {'bfloat16 autocast' if device == 'cuda' else 'float32'}"
    bench = Bench("layer", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    bench.notes.append(
        "parameters: " + ", ".join(f"{name} {trainable_parameters(module):,}" for name, module in layers.items())
    )
    bench.notes.append(NOTE)
    kernels = dict.fromkeys(layers, "")
    if fitting(SELECTIVE_SCAN, ["mamba_ssm"], device):
        layers[FLIPS] = layers[BASELINE]
        kernels |= {BASELINE: "selective_scan=triton", FLIPS: "selective_scan=mamba_ssm"}
    checked = torch.randn(2, CHECKED, width, device=device)
    others = set(layers) - {BASELINE}
    for name, module in [*layers.items()]:
        errors = _errors(name, module.to(device), checked, precision, kernels[name])
        if verify(bench, errors, TOLERANCES[device], others):
            del layers[name]
    reset_backends_used()
    for length in lengths:
        x = torch.randn(batch, length, width, device=device)
        trained = device != "cpu" or length <= LONGEST_TRAINED
        for phase in (FORWARD, TRAINING) if trained else (FORWARD,):
            calls = {name: _phase(phase, module, x, precision, kernels[name]) for name, module in layers.items()}
            floors_ms = {
                name: floor_of(bench.machine, call, layer_moves(trainable_parameters(layers[name]), x.numel())[phase])
                for name, call in calls.items()
            }
            bench.rows += interleave(
                f"L={length}", phase, calls, baseline=BASELINE, seconds=seconds, floors_ms=floors_ms
            )
    return bench


def _errors(name: str, module: nn.Module, x: Tensor, precision: torch.autocast, kernels: str) -> dict[str, float]:
    """Of the output and the gradients, to weights and input, against the reference kernels in float64."""
    names, weights = zip(*module.named_parameters(), strict=True)

    def definition(x: Tensor, *weights: Tensor) -> Tensor:
        with forced("reference"):
            return functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    def own(x: Tensor, *weights: Tensor) -> Tensor:
        with precision, forced(kernels):
            return functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    return relative_errors({name: own}, definition, [x, *(weight.detach() for weight in weights)])


def _phase(phase: str, module: nn.Module, x: Tensor, precision: torch.autocast, kernels: str) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode(), precision, forced(kernels):
            module(x)

    leaf = x.clone().requires_grad_()

    def training() -> None:
        with precision, forced(kernels):
            y = module(leaf.view_as(leaf))  # FlopCounterMode cannot watch a module whose input is a leaf
        torch.autograd.grad(y, [leaf, *module.parameters()], torch.ones_like(y))

    return forward if phase == FORWARD else training
