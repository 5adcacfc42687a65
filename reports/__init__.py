"""Tables, figures and pages from finished runs, beside the numbers that the papers report.

In a notebook: `reports.frame("maskmamba-hybrid-schemes")`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["frame"]


def frame(
    sweep: str, scale: str = "", overrides: Sequence[str] = (), root: Path | str | None = None
) -> pandas.DataFrame:
    """Everything that a sweep has measured, as a tidy table: one row a cell, that is one seed of one configuration.

    Columns: one for each axis (categorical, in the order of the definition), `seed`, `run_id`, `eval_id`, `reason` (why
    a cell has no measurement, else ""), then every metric by its name in `lightning_modules.metrics.config.METRICS`,
    as stored (seconds, bytes, fractions); NaN where there is none.

    Args:
        sweep: a named sweep, or a YAML file.
        scale: demo, small or paper; "" = the first that the sweep declares.
        overrides: as on the command line, e.g. ("seeds=0,1",).
        root: folder of all outputs; by default ABLATE_ROOT, else ./outputs.

    Raises:
        experiments.errors.UserError: unknown sweep, scale or override.
    """
    from reports.frames import to_frame
    from reports.subject import load_subject

    return to_frame(load_subject(sweep, scale, overrides, root))
