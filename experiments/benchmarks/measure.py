"""Timing side by side, peak memory, and the machine's own limits."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from experiments.benchmarks.bench import Row
from experiments.memory import peak_memory_bytes, reset_peak_memory

FEWEST_ROUNDS, MOST_ROUNDS = 6, 41  # fewer than six have no 95 % interval of the median
IN_A_ROW, FEWEST_IN_A_ROW = 15, 3
BUSY_MS, MOST_REPEATS = 10, 100
"""A GPU is kept busy for so long before it is waited for."""


class Elsewhere(ABC):
    """A contender that another process runs, times and watches, while this one waits."""

    @abstractmethod
    def milliseconds(self) -> float:
        """Time one call."""

    @abstractmethod
    def peak_memory(self) -> int | None:
        """Most memory held during a call beyond what is held before it; None where nobody tells."""


Contender = Callable[[], Any] | Elsewhere
Contenders = Mapping[str, Contender]


def interleave(
    case: str,
    phase: str,
    contenders: Contenders,
    *,
    baseline: str,
    seconds: float,
    floors_ms: Mapping[str, float | None] | None = None,
    memory: bool = True,
) -> list[Row]:
    """Time every contender once per round, round after round, for about `seconds`, after one untimed round.

    Whatever slows the machine for a while slows all contenders of a round, so ratios within rounds survive it.
    """
    peaks = {name: peak_memory(call) if memory else None for name, call in contenders.items()}
    for call in contenders.values():
        milliseconds(call)  # measuring peaks gave freed memory back; this maps it again
    times = in_turns(contenders, seconds)
    return [
        row(
            case,
            phase,
            name,
            values,
            ratios=[own / base for own, base in zip(values, times[baseline], strict=True)],
            peak_bytes=peaks[name],
            floor_ms=(floors_ms or {}).get(name),
        )
        for name, values in times.items()
    ]


def row(
    case: str,
    phase: str,
    contender: str,
    times: Sequence[float],
    *,
    ratios: Sequence[float],
    peak_bytes: int | None,
    floor_ms: float | None = None,
) -> Row:
    """What is told of milliseconds and ratios round by round."""
    quartiles = statistics.quantiles(times, n=4)
    return Row(
        case=case,
        phase=phase,
        contender=contender,
        median_ms=statistics.median(times),
        fastest_ms=min(times),
        spread=(quartiles[2] - quartiles[0]) / statistics.median(times),
        ratio=statistics.median(ratios),
        rounds=len(times),
        peak_bytes=peak_bytes,
        floor_ms=floor_ms,
    )


def in_turns(
    contenders: Contenders, seconds: float, progress: Callable[[int, int], None] = lambda done, most: None
) -> dict[str, list[float]]:
    """Milliseconds of every contender in every round, round after round, for about `seconds`.

    Every round begins with another contender: what the first one finds, and what each leaves behind for the next, is
    shared out.

    Args:
        progress: told how many rounds are done, and how many there will be at most.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    repeats = {name: _repeats(call) for name, call in contenders.items()}
    deadline = time.perf_counter() + seconds
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and time.perf_counter() > deadline:
            break
        for name in rotated(list(contenders), done):
            times[name].append(milliseconds(contenders[name], repeats[name]))
        progress(done + 1, MOST_ROUNDS)
    return times


def in_a_row(call: Contender, seconds: float = 1.0) -> list[float]:
    """Milliseconds of calls right after one another, which find memory and caches as they left them.

    Args:
        seconds: no more calls after that time, of which long ones need none: they leave little to the next.
    """
    repeats, times = _repeats(call), [milliseconds(call)]
    deadline = time.perf_counter() + seconds
    while len(times) <= FEWEST_IN_A_ROW or len(times) <= IN_A_ROW and time.perf_counter() < deadline:
        times.append(milliseconds(call, repeats))
    return times[1:]


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names in their order, from number `by` on and around."""
    first = by % len(names)
    return [*names[first:], *names[:first]]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median from ranks alone (sign test).

    Args:
        values: at least 6; the extremes of fewer do not cover the median so often.
    """
    if len(values) < FEWEST_ROUNDS:
        raise ValueError(f"{len(values)} values have no 95 % interval of the median: {FEWEST_ROUNDS} are needed.")
    ordered, count = sorted(values), len(values)
    below, cut = 0.0, 0  # probability that at most `cut` values lie on one side of the median
    while cut < count // 2 and below + math.comb(count, cut) * 0.5**count <= 0.025:
        below += math.comb(count, cut) * 0.5**count
        cut += 1
    rank = max(0, cut - 1)
    return ordered[rank], ordered[count - 1 - rank]


def peak_memory(call: Contender, before: int | None = None) -> int | None:
    """Most memory held during `call` beyond `before`, by default what is held now; None where nobody tells."""
    if isinstance(call, Elsewhere):
        return call.peak_memory()
    held = reset_peak_memory()
    before = held if before is None else before
    call()
    if held is None or before is None:
        return None
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before)
    return max(0, peak_memory_bytes() - before)


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on: hardware, code, and the float32 multiply-adds and bytes a second measured now, of the
    GPU where there is one."""
    from experiments.benchmarks.limits import limits
    from experiments.provenance import code_version, hardware, versions

    vectors = torch.backends.cpu.get_cpu_capability()
    known = {**hardware(), "vectors": vectors, **code_version(), "packages": versions(), "threads": threads}
    return {**known, **limits(threads)}


def floor_ms(machine: Mapping[str, Any], *, multiply_adds: float, bytes_moved: float) -> float | None:
    """The longer of computing at the measured peak and moving the data at the measured bandwidth, in milliseconds."""
    if machine["multiply_adds_per_s"] is None:
        return None
    return 1e3 * max(multiply_adds / machine["multiply_adds_per_s"], bytes_moved / machine["bytes_per_s"])


def milliseconds(call: Contender, repeats: int = 1) -> float:
    """Wall time of a call, the mean of some in a row, on a GPU until the last has finished, with all threads awake."""
    if isinstance(call, Elsewhere):
        return call.milliseconds()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    else:
        torch.zeros(2**20).add_(1)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3 / repeats


def _repeats(call: Contender) -> int:
    """How many calls to time at once. A GPU is given several short ones, as in a network, where the next is queued
    while one computes: the time from the processor to the GPU and back is no part of a layer's."""
    if not torch.cuda.is_initialized():
        return 1
    return max(1, min(MOST_REPEATS, math.ceil(BUSY_MS / milliseconds(call))))
