"""What the kernel benchmarks share: a contender as a timed phase, and its errors against the float64 definition."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from experiments.benchmarks.apart import OwnProcess
from experiments.benchmarks.bench import FORWARD, TRAINING, Bench, Row
from experiments.benchmarks.measure import Contender, in_a_row, interleave
from experiments.errors import UserError, unknown
from lightning_modules.backends import ENVIRONMENT_VARIABLE
from lightning_modules.kernels.dispatch import BACKENDS
from lightning_modules.precision import exact_float32

Call = Callable[..., Tensor]
MakePhase = Callable[[str], Callable[[], None]]
"""Phase -> the call to time."""
OURS = ("cpp", "triton", "torch")
"""The suite's own back ends, the fastest first."""
HOT, HOT_RATIO, HOT_FLOOR = "hot ms", "hot x", "hot x floor"
HOT_NOTE = (
    "hot: median of calls one after another, half before and half after the turns; below 1 x floor where caches keep "
    "what the floor reads from memory; the other columns: in turns with the others, x floor by the fastest"
)
FLOAT32 = {"output": 1e-6, "gradients": 5e-6}
"""Largest errors of an operation or a layer in float32, relative to the largest true value."""


def fitting(operation: str, backends: Sequence[str], device: str) -> list[str]:
    """Those of the back ends that run the operation on such a device, in float32."""
    return [n for n in backends if BACKENDS[n].unfit(operation, torch.device(device), torch.float32) is None]


def competing(operation: str, backends: Sequence[str], device: str) -> list[str]:
    """Those of the back ends that fit, at least one.

    Raises:
        UserError: a back end that does not exist, or none that fits.
    """
    for name in backends:
        if name not in BACKENDS:
            raise unknown("back end", name, BACKENDS)
    if found := fitting(operation, backends, device):
        return found
    reasons = (f"{n}: {BACKENDS[n].unfit(operation, torch.device(device), torch.float32)}" for n in backends)
    raise UserError(
        f"No back end is left to run {operation} ({'; '.join(reasons)}). Name one that fits: backends=torch."
    )


def phases(
    bench: Bench,
    case: str,
    contenders: Mapping[str, Call],
    inputs: Sequence[Tensor],
    ours: Sequence[str],
    floors: Mapping[str, float | None],
    seconds: float,
    apart: Mapping[str, tuple[OwnProcess, MakePhase]] = MappingProxyType({}),
) -> None:
    """Time all contenders on one shape, forward and in training, and put the rows into a benchmark.

    Args:
        ours: the contenders that the floor concerns; the first is the baseline.
        floors: phase -> milliseconds.
        seconds: time spent per phase.
        apart: further contenders, each with its process, and what makes its calls there (see OwnProcess.prepare).
    """
    if HOT_NOTE not in bench.notes:
        bench.notes.append(HOT_NOTE)
    for phase in (FORWARD, TRAINING):
        calls: dict[str, Contender] = {name: phase_of(phase, call, inputs) for name, call in contenders.items()}
        calls |= {name: process.prepare(partial(make, phase)) for name, (process, make) in apart.items()}
        floors_ms = dict.fromkeys(ours, floors[phase])
        hot = {name: in_a_row(call) for name, call in calls.items()}
        timed = interleave(case, phase, calls, baseline=ours[0], seconds=seconds, floors_ms=floors_ms)
        for name, call in calls.items():  # before and after: whatever slows the machine for a while slows one
            hot[name] += in_a_row(call)
        medians = {name: statistics.median(times) for name, times in hot.items()}
        bench.rows += [_with_hot(row, medians[row.contender], medians[ours[0]]) for row in timed]


def _with_hot(row: Row, own: float, base: float) -> Row:
    floor = {} if row.floor_ms is None else {HOT_FLOOR: own / row.floor_ms}
    return replace(row, extra={HOT: own, HOT_RATIO: own / base, **floor})


def phase_of(phase: str, call: Call, inputs: Sequence[Tensor]) -> Callable[[], None]:
    """The forward without a graph, or forward and backward to every input."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    received: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            call(*inputs)

    def training() -> None:
        views = (leaf.view_as(leaf) for leaf in leaves)  # FlopCounterMode cannot watch a module whose input is a leaf
        y = call(*views)
        if not received:
            received.append(torch.ones_like(y))
        torch.autograd.grad(y, leaves, received)

    return forward if phase == FORWARD else training


def relative_errors(
    contenders: Mapping[str, Call], definition: Call, inputs: Sequence[Tensor], exact: bool = True
) -> dict[str, float]:
    """Largest error over the largest true value: of every contender's output, and of its worst gradient.

    Args:
        definition: what the contenders compute; runs in float64.
        exact: run the contenders without TensorFloat-32.
    """
    true_results = _results(definition, [t.double() for t in inputs])
    errors: dict[str, float] = {}
    for name, call in contenders.items():
        with exact_float32(inputs[0].device) if exact else nullcontext():
            pairs = zip(_results(call, inputs), true_results, strict=True)
        output, *gradients = [(own.double() - true).abs().max() / true.abs().max() for own, true in pairs]
        worst = torch.stack(gradients).max()  # NaN where one is
        errors |= {f"{name}, output": output.item(), f"{name}, gradients": worst.item()}
    return errors


def verify(
    bench: Bench,
    errors: Mapping[str, float],
    tolerances: Mapping[str, float] = FLOAT32,
    optional: Collection[str] = (),
) -> set[str]:
    """Put errors into a benchmark's checks before anything is timed.

    Args:
        errors: "contender, what" -> error, NaN included.
        tolerances: what -> the largest error.
        optional: contenders that the others can be timed without.

    Returns:
        Optional contenders with a larger error, which are not to be timed: a note tells of each.

    Raises:
        UserError: the error of another contender is larger; times of a wrong result mean nothing.
    """
    bench.checks |= errors
    wrong = set()
    for name, error in errors.items():
        contender, _, what = name.rpartition(", ")
        if error <= tolerances[what]:
            continue
        found = f"{name}: an error of {error:.1e}, where {tolerances[what]:.0e} is the most"
        if contender not in optional:
            raise UserError(
                f"Nothing was timed: {found}. Choose other kernels, or fix these (`ablate doctor` shows what there is)."
            )
        if contender not in wrong:
            bench.notes.append(f"{contender} left out: {found.removeprefix(f'{contender}, ')}")
        wrong.add(contender)
    return wrong


def _results(call: Call, inputs: Sequence[Tensor]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in inputs]
    y = call(*leaves)
    return [y, *torch.autograd.grad(y, leaves, torch.ones_like(y))]


@contextmanager
def forced(backends: str) -> Iterator[None]:
    """Name back ends for a while, as the environment variable does; empty: leave the choice as it is."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    if backends:
        os.environ[ENVIRONMENT_VARIABLE] = backends
    try:
        yield
    finally:
        if backends:
            os.environ.pop(ENVIRONMENT_VARIABLE)
            if before is not None:
                os.environ[ENVIRONMENT_VARIABLE] = before
