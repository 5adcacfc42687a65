"""Rows held against each other by one quantity: who takes part, and which differences are more than noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from reports.aggregate import Row
from reports.comparable import set_apart
from reports.quantities import EXACT, is_time
from reports.simultaneous import AllPairs
from reports.uncertainty import compare

AT_95 = "at 95%, all rows ranked together"
"""How sure a difference is that a table does not take for noise: one of all pairs, since the best row is chosen by the
same numbers."""
TIMED_APART = "times of separate runs, beside which other work may have run, decide nothing"
Doubt = Literal["", "=", "?"]
"""Of a difference: "" it is more than noise, "=" it cannot be told from noise, "?" too little is known of the noise, or
the rows are not comparable."""


def timed_apart(rows: Iterable[Row], metric: str) -> bool:
    """Whether a quantity is the wall time of separate runs, beside which other work may have run or not."""
    return is_time(metric) and any(record.benchmark is None for row in rows for record in row.measured)


class Contest:
    """The rows with a measurement of one quantity, all pairs of them judged together.

    Rows of several seeds are judged by `AllPairs`, the others by the noise that their evaluations report (Bonferroni).
    That is noise of sampling alone: beside rows of several seeds, which show what another seed does, a row of one seed
    is told from no other. (The pooled variance of the others does not stand in for it: simulated with the spreads that
    the suite has measured of eight generators, up to 44 % of tables then tell a row from the best wrongly.)
    """

    def __init__(self, rows: Sequence[Row], metric: str):
        self.metric = metric
        self.timed_apart = timed_apart(rows, metric)
        """Nothing is decided then."""
        ways = {row: tuple(set_apart(row, metric).items()) for row in rows if row.value(metric).n}
        counts = Counter(ways.values())
        usual = max(counts, key=lambda way: (counts[way], not way), default=())
        self.rows = tuple(row for row, way in ways.items() if way == usual)
        """Those that take part: measured in the same way as most."""
        self.left_out = tuple(row for row, way in ways.items() if way != usual)
        """Those that were measured in another way, and are not comparable."""
        several = [] if metric in EXACT else [row for row in self.rows if row.value(metric).n > 1]
        self._places = {row: place for place, row in enumerate(several)}
        values = [row.value(metric) for row in several]
        self._pairs = AllPairs(values, len(self.rows)) if len(several) > 1 else None

    def doubt(self, row: Row, base: Row) -> Doubt:
        """What is in doubt of the difference of two rows, as one of all pairs of those that take part."""
        if self.timed_apart or row in self.left_out or base in self.left_out:
            return "?"
        if self._pairs and row in self._places and base in self._places:
            apart = self._pairs.apart(self._places[row], self._places[base])
            if apart is not None:
                return "" if apart else "="
        found = compare(row, base, self.metric)
        if found is None or found.distinguishable is None:
            return "?"
        if not found.stands_among(math.comb(len(self.rows), 2)):
            return "="
        return "?" if self._places and found.single_training else ""
