"""Plots of a load test: latency against the rate of arrivals, memory against time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arra.experiments.load.results import LoadResult
from arra.experiments.plotting import COLOURS, GRID, INK, PALE, canvas, save

_SHADES = (PALE, COLOURS[2], COLOURS[1])


def plot_latency(result: LoadResult, path: Path) -> None:
    """The 95th percentile (line) and the median (dots) of each target at all its rates."""
    figure, axes = canvas(7.2, 3.8)
    for name, colour in zip(result.names, _SHADES, strict=True):
        levels = [level for level in result.of(name) if not level.overloaded]
        rates = [level.rate for level in levels]
        for what, style in (("p95", "o-"), ("p50", ".:")):
            axes.plot(rates, [1e3 * level.latency[what] for level in levels], style, color=colour,
                      ms=4, lw=1.4, label=f"{name}, {what}")  # fmt: skip
        if rate := result.rate(name):
            axes.axvline(rate, color=colour, lw=0.8, ls="--")
            axes.annotate(f"{rate:.0f}", (rate, 1), xycoords=("data", "axes fraction"),
                          xytext=(2, -8), textcoords="offset points", fontsize=8,
                          color=colour)  # fmt: skip
    axes.axhline(1e3 * result.bound, color=INK, lw=0.8)
    axes.annotate(f"bound: {result.config.bound:g} x a lone picture", (1, 1e3 * result.bound),
                  xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
                  ha="right", fontsize=8, color=INK)  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("Poisson arrivals a second")
    axes.set_ylabel("latency (ms)")
    axes.set_title(f"{result.model}: {result.machine_class}", loc="left", fontsize=10)
    axes.grid(color=GRID, lw=0.6)
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    save(figure, path)


def plot_memory(result: LoadResult, path: Path) -> None:
    """What the process had in memory during the long load."""
    seconds, memory = np.array(result.memory).reshape(-1, 2).T
    figure, axes = canvas(7.2, 2.4)
    axes.plot(seconds / 60, memory, color=COLOURS[1], lw=1.4)
    top = float(np.nanmax(memory)) if np.isfinite(memory).any() else 1.0
    axes.set_ylim(0, 1.15 * top)
    axes.set_xlabel("minutes")
    axes.set_ylabel("MiB")
    rate = result.soak.rate
    axes.set_title(
        f"memory of the process, {rate:.0f} arrivals a second: {result.slope:+.2f} MiB a minute",
        loc="left",
        fontsize=10,
    )
    axes.grid(color=GRID, lw=0.6)
    save(figure, path)
