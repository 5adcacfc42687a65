"""A benchmark as a bar chart: time relative to the baseline, one panel per phase."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of a backend without a screen)
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402

from experiments.benchmarks.bench import Bench  # noqa: E402


def draw(bench: Bench, path: Path) -> None:
    """Write a PNG to `path`."""
    phases = list(dict.fromkeys(row.phase for row in bench.rows))
    contenders = list(dict.fromkeys(row.contender for row in bench.rows))
    found = [list(dict.fromkeys(row.case for row in bench.rows if row.phase == phase)) for phase in phases]
    height = 1.4 + max(map(len, found)) * max(0.42, 0.17 * len(contenders))
    size, alike = (4 * len(phases) + 1.5, height), all(cases == found[0] for cases in found)
    figure, panels = plt.subplots(1, len(phases), figsize=size, squeeze=False, sharey=alike, layout="constrained")
    width = 0.8 / len(contenders)
    for panel, phase, cases in zip(panels[0], phases, found, strict=True):
        for index, contender in enumerate(contenders):
            rows = [row for row in bench.rows if row.phase == phase and row.contender == contender]
            where = [cases.index(row.case) + (index - (len(contenders) - 1) / 2) * width for row in rows]
            bars = panel.barh(where, [row.ratio for row in rows], width, label=contender)
            panel.bar_label(bars, [f"{row.ratio:.3g}" for row in rows], fontsize=7, padding=2)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.tick_params(labelsize=7)
        panel.margins(x=0.15)
        panel.set_yticks(range(len(cases)), [textwrap.fill(case, 32) for case in cases])
        panel.set_ylim(len(cases) - 0.5, -0.5)
        panel.set_title(phase, fontsize=9)
        panel.set_xlabel(f"time / {bench.baseline}", fontsize=8)
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=7, ncols=4, loc="outside lower center")
    figure.suptitle(bench.title, fontsize=10)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
