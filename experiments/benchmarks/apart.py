"""A contender in a process of its own, where the C library hands out memory as it does by default.

This program keeps freed memory (experiments/allocator.py). A peer measured in its process gains from that too, so it is
also measured as its own users run it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from experiments.benchmarks.bench import Row
from experiments.benchmarks.measure import in_turns, peak_memory, row


def alone(contender: str, make: Callable[[], Callable[[], Any]], baseline: Row, seconds: float) -> Row:
    """Time a contender by itself for about `seconds`.

    Not in turns with the others: what it maps and gives back in every round would slow whoever comes after it.

    Args:
        make: builds the call inside the process; it is pickled, so a function of a module or a partial of one.
        baseline: the row of the same case and phase that the ratio is relative to, median over median.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        times, peak = pool.submit(_measured, make, torch.get_num_threads(), seconds).result()
    return row(
        baseline.case,
        baseline.phase,
        contender,
        times,
        ratios=[own / baseline.median_ms for own in times],
        peak_bytes=peak,
    )


def _measured(make: Callable[[], Callable[[], Any]], threads: int, seconds: float) -> tuple[list[float], int | None]:
    torch.set_num_threads(threads)
    call = make()
    peak = peak_memory(call)
    return in_turns({"": call}, seconds)[""], peak
