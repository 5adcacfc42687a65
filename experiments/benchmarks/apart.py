"""A contender in a process of its own, where the C library hands out memory as it does by default.

This program keeps freed memory (experiments/allocator.py), from which a peer inside its process gains too. So peers are
measured twice: in this process, and in one of their own, as their users run them. Both take turns with all others.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch

from experiments.benchmarks.measure import Elsewhere, milliseconds, peak_memory
from experiments.errors import UserError

PAUSE_S = 0.02
"""Threads of a process spin for a moment after its last work, in wait of more; the other process waits that out."""


class OwnProcess(Elsewhere):
    """A process that runs one call after another, each when asked, and waits in between.

    It ends with the block, and with the process that made it, however that ends.

    Args:
        name: the contender, for errors.
    """

    def __init__(self, name: str):
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, torch.get_num_threads()), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process ends the pipe

    def __enter__(self) -> OwnProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def prepare(self, make: Callable[[], Callable[[], Any]]) -> OwnProcess:
        """Build the call that is measured from now on.

        Args:
            make: returns the call; it is pickled, so a function of a module or a partial of one.
        """
        self._ask(make)
        return self

    def milliseconds(self) -> float:
        """Time the call once, there."""
        time.sleep(PAUSE_S)
        elapsed = self._ask("milliseconds")
        time.sleep(PAUSE_S)
        return elapsed

    def peak_memory(self) -> int | None:
        """Most memory that the process holds during a call beyond what it holds before."""
        return self._ask("peak_memory")

    def _ask(self, request: Callable[[], Any] | Literal["milliseconds", "peak_memory"]) -> Any:
        try:
            self._pipe.send(request)
            done, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1)
            raise UserError(
                f"The process of {self._name} ended with exit code {self._process.exitcode}, perhaps for want of "
                "memory; choose smaller shapes."
            ) from None
        if not done:
            raise UserError(f"{self._name} failed in a process of its own: {answer}")
        return answer


def _serve(pipe: Connection, threads: int) -> None:
    """Answer until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the other one ends it
    torch.set_num_threads(threads)
    measures: dict[str, Callable[[Any], Any]] = {"milliseconds": milliseconds, "peak_memory": peak_memory}
    call = None
    try:
        while True:
            request = pipe.recv()
            try:
                if isinstance(request, str):
                    answer = measures[request](call)
                else:
                    call = answer = None  # frees what the last one held
                    call = request()
                pipe.send((True, answer))
            except Exception as error:
                pipe.send((False, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"))
    except (EOFError, OSError):
        return
