"""Why a run failed: a cause that failures are grouped by, and one sentence for the table. Torch-free."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from experiments.errors import CellError, UserError

CAUSES = {
    "oom": "out of memory",
    "nan": "not a number",
    "killed": "killed",
    "preempted": "pre-empted",
    "time_limit": "time limit",
    "distributed": "communication between processes",
    "kernel": "missing kernel",
    "bad_config": "bad configuration",
    "data": "data",
    "checkpoint": "checkpoint",
    "disk": "disk",
    "damaged": "damaged file",
    "repeated": "given up after equal failures",
    "other": "other",
}
"""Cause -> what it is called in tables."""
RESUMABLE = frozenset({"killed", "preempted", "time_limit"})
"""Causes that lie outside the run: `ablate run` continues such runs by itself; the others wait for `ablate retry`."""
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG})
_WORDS = (
    ("oom", ("out of memory", "cannot allocate memory", "can't allocate memory", "alloc_failed")),
    ("disk", ("cannot write", "no space left", "read-only file system", "disk quota")),  # before endings of files
    ("distributed", ("nccl", "gloo", "processgroup", "c10d", "torch.distributed")),
    ("kernel", ("no kernel image", "mamba_ssm", "triton", "flash_attn", "back end", "backend")),
    ("checkpoint", ("checkpoint", ".ckpt", "state_dict")),
    ("nan", ("loss is not finite", "loss became", "non-finite", "is nan", "nan loss", "not a number")),
    ("data", ("dataset", "data file", "tokens file", "dataloader", "meta.json", ".npz", ".npy")),
)
"""Cause -> beginnings of words ("ncclInternalError", "datasets"), and endings of files."""
_PATH = re.compile(r"[\w.~-]*/[\w.~/+-]*")
_EXPECTED = (UserError, CellError, ValueError, FileNotFoundError, FloatingPointError)
"""Errors whose message is already a sentence for people."""


def classify(error: BaseException) -> tuple[str, str]:
    """The cause (a key of `CAUSES`) and the one-sentence reason of an exception."""
    return _cause(error), _sentence(error)


def _cause(error: BaseException) -> str:
    if type(error).__name__ == "GivenUp":
        return "repeated"
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, MemoryError) or type(link).__name__ == "OutOfMemoryError":
            return "oom"
        if isinstance(link, FloatingPointError):
            return "nan"
        if isinstance(link, OSError) and link.errno in _DISK:
            return "disk"
    cause = cause_of(" ".join(f"{type(link).__module__} {link}" for link in chain))
    wrong = any(isinstance(link, UserError | ValueError) for link in chain)
    return "bad_config" if cause == "other" and wrong else cause


def cause_of(text: str) -> str:
    """The cause that the words of a message point to."""
    text = _PATH.sub(_kind, text.lower())
    return next((cause for cause, words in _WORDS if any(_begins(word, text) for word in words)), "other")


def _kind(path: re.Match[str]) -> str:
    """What a path says of its file; the names of folders say nothing."""
    name = PurePosixPath(path[0].rstrip("."))
    return name.name if name.name == "meta.json" else name.suffix


def _begins(word: str, text: str) -> bool:
    """Whether `word`, where it is one, stands in `text` with no letter before it."""
    return bool(re.search(("(?<![a-z])" if word[0].isalpha() else "") + re.escape(word), text))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if not isinstance(error, _EXPECTED):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 400 else text[:399] + "…"
