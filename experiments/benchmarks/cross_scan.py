"""`ablate bench cross-scan`: four directions over words and image in one call, against four copies of the sequence.

The copies are VMamba's cross-scan and cross-merge (arXiv 2401.10166, section 4.2): the sequence laid out in memory
along each path, projected, scanned, put back and summed. Both have the same parameters and the same results.

Shapes: B batch, K = 4 directions, S words and image positions, D inner width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.benchmarks.bench import FORWARD, TRAINING, Bench
from experiments.benchmarks.measure import interleave, machine
from experiments.benchmarks.problem import Call, phase_of, relative_errors
from lightning_modules.kernels import backends_used, reset_backends_used
from lightning_modules.layers.scan_order import scan_orders
from lightning_modules.layers.ssm import SelectiveSSM
from lightning_modules.precision import exact_float32

DIRECTIONS, STATES = 4, 16
BASELINE, COPIES = "one call", "four copies"
SHAPES = ((1, 512, 77, 16), (1, 512, 0, 32), (1, 512, 0, 64))
"""(B, D, words, side): M-Mamba at 256 pixels, and images alone."""


def cross_scan(shapes: Sequence[tuple[int, int, int, int]] = SHAPES, seconds: float = 10.0) -> Bench:
    """seconds: time spent per shape and phase. Float32, N = 16, weights as initialised."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    title = "Selective SSM along four paths, float32, 16 states"
    bench = Bench("cross-scan", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    small = {name: _call(name, 8, 3, 4, device) for name in (BASELINE, COPIES)}
    x = torch.randn(2, 3 + 4 * 4, 8, device=device)
    with exact_float32(x.device):
        bench.checks = relative_errors(small, small[COPIES], [x])
    reset_backends_used()
    for batch, width, words, side in shapes:
        x = torch.randn(batch, words + side**2, width, device=device)
        calls = {name: _call(name, width, words, side, device) for name in (BASELINE, COPIES)}
        for phase in (FORWARD, TRAINING):
            timed = {name: phase_of(phase, call, [x]) for name, call in calls.items()}
            case = f"B={batch} D={width} words={words} image={side}x{side}"
            bench.rows += interleave(case, phase, timed, baseline=BASELINE, seconds=seconds)
    bench.machine["backends"] = backends_used()
    return bench


def _call(name: str, width: int, words: int, side: int, device: str) -> Call:
    """x (B, S, D) -> the sum of the directions, (B, S, D); in float64 with inputs of float64."""
    torch.manual_seed(0)
    ssm = SelectiveSSM(width, STATES, ["forward"] * DIRECTIONS, model_width=width).to(device)
    order = scan_orders(side, side, DIRECTIONS, words, "prefix").to(device)
    index, inverse = order.long(), order.long().argsort(1)

    def one_call(x: Tensor) -> Tensor:
        return ssm.to(x.dtype)(x, order=order)

    def copies(x: Tensor) -> Tensor:
        y = ssm.to(x.dtype)(x[:, index], merge="stack")  # (B, K, S, D)
        return y.gather(2, inverse[None, :, :, None].expand_as(y)).sum(1)

    return one_call if name == BASELINE else copies
