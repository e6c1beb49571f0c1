"""Plots of studies as PNG: paired differences with their seeds, and curves of convergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arra.errors import InputError
from arra.experiments.plotting import COLOURS, GRID, INK, PALE, canvas, save
from arra.experiments.study_results import Row, StudyResult


def plot_differences(result: StudyResult, path: str | Path) -> None:
    """Write the differences of the primary measure; `InputError` with fewer than two seeds.

    A dot is a seed, a diamond the mean; the thick bar is the 95 % interval with the spread pooled
    over the rows, the thin one that of the row's own paired t test, which may leave the picture.
    """
    rows = result.compared()
    if not rows or len(result.seeds) < 2:
        raise InputError(f"{result.study}: differences need two seeds and a row to compare with")
    figure, axes = canvas(6.4, 1.1 + 0.42 * len(rows))
    for place, row in enumerate(rows):
        paired, pooled = result.difference(row), result.pooled(row)
        assert paired is not None
        assert pooled is not None
        thin = paired.interval
        axes.plot([thin.low, thin.high], [place] * 2, color=PALE, lw=1, solid_capstyle="butt")
        axes.plot([pooled.low, pooled.high], [place] * 2, color=COLOURS[1], lw=3.5, alpha=0.55)
        axes.plot(paired.differences, [place] * len(paired.differences), "o", ms=4, color=INK)
        axes.plot(thin.value, place, "D", ms=6.5, mfc="white", mec=COLOURS[1], mew=1.5, zorder=3)
    axes.set_xlim(*_limits(result, rows))
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    better = "left" if result.measures[0].better == "lower" else "right"
    baselines = ", ".join(dict.fromkeys(row.baseline for row in rows))
    axes.set_xlabel(f"{result.measures[0].name}: difference to {baselines} ({better}: better)")
    axes.set_title(f"{result.study}: {len(result.seeds)} paired seeds", loc="left", fontsize=10)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    save(figure, path)


def plot_convergence(result: StudyResult, path: str | Path) -> None:
    """Write the courses of the primary measure, seeds thin and their mean thick; `InputError`
    where none was followed."""
    rows = [row for row in result.rows if row.course]
    if not rows:
        raise InputError(f"{result.study}: nothing was evaluated during training")
    figure, axes = canvas(6.4, 3.6)
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        for values in row.course:
            axes.plot(row.steps, values, color=colour, lw=0.6, alpha=0.35)
        mean = np.mean(np.asarray(row.course), axis=0)
        axes.plot(row.steps, mean, color=colour, lw=1.8, label=row.name, marker="o", ms=2.5)
    axes.set_xscale("log")
    ticks = [step for step in rows[0].steps if step in _few(rows[0].steps)]
    axes.set_xticks(ticks, [str(step) for step in ticks])
    axes.minorticks_off()
    axes.set_xlabel("step (logarithmic)")
    axes.set_ylabel(result.measures[0].name.split(",")[0])
    axes.grid(color=GRID, lw=0.6)
    axes.set_title(
        f"{result.study}: {len(result.seeds)} seeds thin, mean thick", loc="left", fontsize=10
    )
    axes.legend(frameon=False)
    save(figure, path)


def _few(steps: tuple[int, ...]) -> set[int]:
    """About every doubling of the steps."""
    kept = [steps[0]]
    for step in steps:
        if step >= 1.8 * kept[-1]:
            kept.append(step)
    return {*kept[:-1], steps[-1]} if kept[-1] > 0.7 * steps[-1] else {*kept, steps[-1]}


def _limits(result: StudyResult, rows: list[Row]) -> tuple[float, float]:
    """What dots and pooled intervals take: the t interval of few seeds would dwarf them."""
    seen = [0.0]
    for row in rows:
        paired, pooled = result.difference(row), result.pooled(row)
        assert paired is not None
        assert pooled is not None
        seen += [*paired.differences, pooled.low, pooled.high]
    low, high = min(seen), max(seen)
    room = 0.08 * (high - low or 1.0)
    return low - room, high + room
