"""A benchmark as a bar chart: time relative to the baseline, one panel per phase."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (after the choice of a backend without a screen)

from experiments.benchmarks.bench import Bench  # noqa: E402


def draw(bench: Bench, path: Path) -> None:
    """Write a PNG to `path`."""
    phases = list(dict.fromkeys(row.phase for row in bench.rows))
    contenders = list(dict.fromkeys(row.contender for row in bench.rows))
    figure, panels = plt.subplots(
        1, len(phases), figsize=(4.5 * len(phases) + 1, 3.6), squeeze=False, sharey=True, layout="constrained"
    )
    width = 0.8 / len(contenders)
    for panel, phase in zip(panels[0], phases, strict=True):
        cases = list(dict.fromkeys(row.case for row in bench.rows if row.phase == phase))
        for index, contender in enumerate(contenders):
            rows = [row for row in bench.rows if row.phase == phase and row.contender == contender]
            where = [cases.index(row.case) + (index - (len(contenders) - 1) / 2) * width for row in rows]
            bars = panel.bar(where, [row.ratio for row in rows], width, label=contender)
            panel.bar_label(bars, [f"{row.ratio:.3g}" for row in rows], fontsize=7)
        panel.set_yscale("log")
        panel.margins(y=0.1)
        panel.set_xticks(range(len(cases)), cases, fontsize=7, rotation=20, ha="right")
        panel.set_title(phase, fontsize=9)
    panels[0][0].set_ylabel(f"time / {bench.baseline}")
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=7, ncols=4, loc="outside lower center")
    figure.suptitle(bench.title, fontsize=10)
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
