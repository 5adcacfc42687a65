"""`ablate bench cross-scan`: four directions over words and image in one call, against four copies of the sequence.

The copies are VMamba's cross-scan and cross-merge (arXiv 2401.10166, section 4.2): the sequence laid out in memory
along each path, projected, scanned, put back and summed. Both have the same parameters and the same results.

Shapes: B batch, K = 4 directions, S words and image positions, D inner width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.bench import FORWARD, TRAINING, Bench
from experiments.benchmarks.cells.base import trainable_parameters
from experiments.benchmarks.measure import interleave, machine
from experiments.benchmarks.problem import Call, phase_of, relative_errors, verify
from experiments.benchmarks.work import NOTE, floor_of, layer_moves
from lightning_modules.kernels import reset_backends_used
from lightning_modules.layers.scan_order import scan_orders
from lightning_modules.layers.ssm import SelectiveSSM

DIRECTIONS, STATES = 4, 16
BASELINE, COPIES = "one call", "four copies"
SHAPES = ((1, 512, 77, 16), (1, 512, 0, 32), (1, 512, 0, 64))
"""(B, D, words, side): M-Mamba at 256 pixels, and images alone."""


def cross_scan(shapes: Sequence[tuple[int, int, int, int]] = SHAPES, seconds: float = 10.0) -> Bench:
    """seconds: time spent per shape and phase. Float32, N = 16, weights as initialised."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    title = "Selective SSM along four paths, float32, 16 states"
    bench = Bench("cross-scan", title, baseline=BASELINE, machine=machine(torch.get_num_threads()))
    bench.notes.append(NOTE)
    small = _paths(8, 3, 4, device)
    x = torch.randn(2, 3 + 4 * 4, 8, device=device)
    wrong = verify(bench, relative_errors(_contenders(*small), _definition(*small), [x]), optional=[COPIES])
    reset_backends_used()
    for batch, width, words, side in shapes:
        x = torch.randn(batch, words + side**2, width, device=device)
        ssm, order = _paths(width, words, side, device)
        calls = {name: call for name, call in _contenders(ssm, order).items() if name not in wrong}
        for phase in (FORWARD, TRAINING):
            timed = {name: phase_of(phase, call, [x]) for name, call in calls.items()}
            case = f"B={batch} D={width} words={words} image={side}x{side}"
            floor = floor_of(bench.machine, timed[BASELINE], layer_moves(trainable_parameters(ssm), x.numel())[phase])
            floors_ms = dict.fromkeys(timed, floor)
            bench.rows += interleave(case, phase, timed, baseline=BASELINE, seconds=seconds, floors_ms=floors_ms)
    return bench


def _paths(width: int, words: int, side: int, device: str) -> tuple[SelectiveSSM, Tensor]:
    """The SSM of all directions and (K, S), the position that each direction visits at each step."""
    torch.manual_seed(0)
    ssm = SelectiveSSM(width, STATES, ["forward"] * DIRECTIONS, model_width=width).to(device)
    return ssm, scan_orders(side, side, DIRECTIONS, words, "prefix").to(device)


def _contenders(ssm: SelectiveSSM, order: Tensor) -> dict[str, Call]:
    """x (B, S, D) -> the sum of the directions, (B, S, D)."""
    index, inverse = order.long(), order.long().argsort(1)

    def one_call(x: Tensor) -> Tensor:
        return ssm(x, order=order)

    def copies(x: Tensor) -> Tensor:
        y = ssm(x[:, index], merge="stack")  # (B, K, S, D)
        return y.gather(2, inverse[None, :, :, None].expand_as(y)).sum(1)

    return {BASELINE: one_call, COPIES: copies}


def _definition(ssm: SelectiveSSM, order: Tensor) -> Call:
    """The same, direction by direction and position by position, in float64 with none of the kernels."""
    weights = copy.deepcopy(ssm).double()

    def call(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for k, visited in enumerate(order.long()):
            u = x[:, visited]
            dt, B, C = (u @ weights.x_proj[k].T).split([weights.dt_rank, STATES, STATES], -1)
            dt = F.softplus(dt @ weights.dt_proj[k].T + weights.dt_bias[k])
            h = x.new_zeros(*u.shape[::2], STATES)
            for step, position in enumerate(visited):
                dt_l, u_l = dt[:, step, :, None], u[:, step, :, None]
                h = torch.exp(-dt_l * weights.A_log[k].exp()) * h + dt_l * u_l * B[:, step, None]
                y = (h * C[:, step, None]).sum(-1) + weights.D[k] * u[:, step]
                total = total.index_add(1, position[None], y[:, None])
        return total

    return call
