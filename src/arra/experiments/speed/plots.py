"""Plots of what benches measured: bars of ratios with their quartiles, and curves of growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arra.errors import InputError
from arra.experiments.plotting import COLOURS, GRID, INK, PALE, canvas, save
from arra.experiments.speed.measure import CaseResult
from arra.experiments.speed.results import BenchResult, Curve

_BAR = 0.34  # inches


def plot_ratios(result: BenchResult, path: str | Path) -> None:
    """Write how many times as fast as the first peer everybody is; `InputError` without a peer.

    The thin line joins the quartiles over repeats; a tick is what the project asks of itself, a
    diamond where the contender's own floor lies.
    """
    cases = [case for case in result.cases if case.peers and not case.series]
    if not cases:
        raise InputError(f"{result.bench}: no case has a peer to compare with")
    rows = sum(len(case.timings) for case in cases)
    figure, axes = canvas(7.2, 0.9 + _BAR * (rows + 0.9 * len(cases)))
    place, ticks, labels = 0.0, [], []
    for case in cases:
        axes.text(0.0, place, case.name, fontweight="bold", va="center", color=INK,
                  transform=axes.get_yaxis_transform())  # fmt: skip
        place += 0.9
        for timing in case.timings:
            _bar(axes, case, timing.name, place)
            ticks.append(place)
            labels.append(timing.name)
            place += 1.0
    axes.set_yticks(ticks, labels)
    axes.set_ylim(place - 0.4, -0.6)
    axes.set_xscale("log")
    axes.axvline(1, color=INK, lw=0.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("times as fast as the peer (logarithmic); | asked, ◇ the machine's limit")
    axes.set_title(f"{result.bench}: {result.machine_class}", loc="left", fontsize=10)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    save(figure, path)


def _bar(axes: Any, case: CaseResult, name: str, place: float) -> None:
    peer, timing = case.peers[0], case.timing(name)
    middle, low, high = case.ratio(name, peer)
    colour = PALE if name in case.peers else COLOURS[1]
    axes.barh(place, middle - 1, left=1, height=0.62, color=colour, alpha=0.75)
    axes.plot([low, high], [place, place], color=INK, lw=1.2)
    end = max(1.0, middle, high)
    if timing.floor:
        limit = case.timing(peer).median / timing.floor
        axes.plot(limit, place, "D", ms=4.5, mfc="white", mec=colour)
        if end <= limit < 2.5 * end:  # the number would cover it
            end = limit
    axes.annotate(f"{middle:.2f}", (end, place), xytext=(6, 0), textcoords="offset points",
                  fontsize=8, va="center", color=INK)  # fmt: skip
    if name in case.targets:
        axes.plot([case.targets[name]] * 2, [place - 0.42, place + 0.42], color=COLOURS[2], lw=1.8)


def plot_growth(result: BenchResult, path: str | Path) -> None:
    """Write time and memory along each series, logarithmic; `InputError` where there is none."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in result.curves():
        groups.setdefault((curve.series, curve.what), []).append(curve)
    if not groups:
        raise InputError(f"{result.bench}: no series of three points")
    across = min(3, len(groups))
    down = -(-len(groups) // across)
    from matplotlib.ticker import LogLocator

    figure, grid = canvas(3.3 * across, 2.7 * down, (down, across))
    for axes, ((series, what), curves) in zip(grid, groups.items(), strict=False):
        for number, curve in enumerate(curves):
            axes.plot(curve.x, curve.y, "o-", ms=3, lw=1.4, color=COLOURS[number % len(COLOURS)],
                      label=f"{curve.contender}: {curve.exponent:.2f}")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 4 * low:  # what hardly changes should look as if it hardly changed
            axes.set_ylim(low / 2, high * 2)
        axes.set_xticks(curves[0].x, [f"{x:,.0f}" for x in curves[0].x])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.set_xlabel(series)
        axes.set_title(what, loc="left", fontsize=9)
        axes.grid(color=GRID, lw=0.6)
        axes.legend(frameon=False, fontsize=7, title="exponent", title_fontsize=7)
    for axes in grid[len(groups) :]:
        axes.set_visible(False)
    save(figure, path)
