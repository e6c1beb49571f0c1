"""The tables of the page about serving under load, made from results that are kept beside it.

    python -m arra.experiments.load.page docs/serving-bench.md --record runs/bench/serve

takes what `arra bench serve` measured into `docs/serving-bench`, in a folder named after the size
of the model, and writes the page's tables again.
"""

from __future__ import annotations

import math
from pathlib import Path

from arra.experiments.load.plots import plot_latency, plot_memory
from arra.experiments.load.results import (
    BOUNDS,
    FILE,
    TARGETS,
    LoadResult,
    Wire,
    crossing,
    growth,
    read_load,
)
from arra.experiments.pages import fill_page
from arra.experiments.speed.tables import markdown_table

LATENCY, MEMORY = "latency.png", "memory.png"


def rate_table(result: LoadResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what each target answers, saturated and within the bound."""
    columns = ["answered", "pictures/s, saturated", "arrivals/s within the bound", "p50 there (ms)",
               "p95", "p99", "arra's rate, times its", "asked"]  # fmt: skip
    rows = []
    for name, full in zip(result.names, result.saturated, strict=True):
        rate = result.rate(name)
        kept = [level for level in result.of(name) if level.rate == rate]
        latency = kept[0].latency if kept else {}
        rows.append(
            [
                name,
                f"{full.throughput:.1f}",
                f"{rate:.1f}",
                *(f"{1e3 * latency[p]:.1f}" if p in latency else "" for p in ("p50", "p95", "p99")),
                "1" if name == result.names[-1] else _times(result.ratio(name)),
                f"≥ {TARGETS[name]:g}" if name in TARGETS else "",
            ]
        )
    return columns, rows


def bound_table(result: LoadResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the rates at other bounds, read off between levels."""
    columns = ["bound (lone pictures)", "ms", *(f"{name}, arrivals/s" for name in result.names)]
    columns += [f"arra / {name}" for name in result.names[:-1]]
    rows = []
    for times in BOUNDS:
        rates = [crossing(result.of(name), times * result.lone) for name in result.names]
        ratios = [rates[-1] / rate if rate else math.inf for rate in rates[:-1]]
        rows.append(
            [
                f"{times:g}",
                f"{1e3 * times * result.lone:.1f}",
                *(f"{rate:.1f}" for rate in rates),
                *map(_times, ratios),
            ]
        )
    return columns, rows


def work_table(result: LoadResult) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what was computed, saturated, under the long load and over HTTP.

    A server counts what it computes for clients that vanish, too: that row has more of them than
    those who asked need."""
    columns = [
        "load",
        "asked",
        "right",
        "rows/step",
        "rows/s",
        "rows wasted",
        "in the house",
        "most",
    ]
    named = [(f"{x.target}, saturated", x) for x in result.saturated]
    named.append((f"{result.soak.target}, long load", result.soak))
    if result.wire is not None and result.wire.level.work["steps"]:
        named.append((result.wire.level.target, result.wire.level))
    rows = []
    for name, level in named:
        steps, computed = level.work["steps"], level.work["rows"]
        rows.append(
            [
                name,
                f"{level.asked}",
                f"{level.right}",
                f"{computed / steps:.1f}" if steps else "",
                f"{computed / level.seconds:.0f}",
                f"{level.work['wasted']:.0f}",
                f"{level.outstanding:.1f}",
                f"{level.longest}",
            ]
        )
    return columns, rows


def lines(result: LoadResult) -> list[str]:
    """What was loaded, the bound, and what went astray, in sentences."""
    astray, soak = result.astray, result.soak
    answered = sum(level.right for level in [*result.saturated, *result.levels, soak])
    told = [
        f"{result.machine_class} ({result.machine.get('cpu', 'unknown processor')}), "
        f"{result.threads} threads, {result.date}. {result.model[:1].upper()}{result.model[1:]}, "
        f"{result.units} units a picture; {result.config.clients} clients, "
        f"{result.config.settings} settings, {result.minutes:.1f} minutes.",
        f"A lone picture takes {1e3 * result.lone:.1f} ms; the bound on the 95th percentile is "
        f"{result.config.bound:g} times that, {1e3 * result.bound:.1f} ms.",
        f"{answered} pictures were compared with the one that `TextToImage.draw` gives for their "
        f"caption and seed ({result.different} of {result.pool} differ from all others): "
        + ", ".join(f"{count} {kind}" for kind, count in astray.items())
        + ".",
        f"Long load: {soak.rate:.0f} arrivals a second for {soak.seconds / 60:.1f} minutes, "
        f"p50 {1e3 * soak.latency['p50']:.1f}, p95 {1e3 * soak.latency['p95']:.1f}, p99 "
        f"{1e3 * soak.latency['p99']:.1f} ms; memory {result.slope:+.2f} MiB a minute.",
    ]
    if result.wire is not None:
        told += _wire(result.wire)
    return told


def _wire(wire: Wire) -> list[str]:
    level, stop = wire.level, wire.stop
    return [
        f"Over HTTP: {level.rate:.0f} arrivals a second for {level.seconds / 60:.1f} minutes, "
        f"{level.right} of {level.asked} right, p50 {1e3 * level.latency['p50']:.1f}, p95 "
        f"{1e3 * level.latency['p95']:.1f}, p99 {1e3 * level.latency['p99']:.1f} ms, while "
        f"{wire.vanished} others vanished and {wire.slow} read slowly; memory of the server "
        f"{growth(wire.memory):+.2f} MiB a minute.",
        f"Told to stop in the middle: {stop.right} requests got their picture, {stop.turned_away} "
        f"were turned away, {stop.lost} lost; it ended after {stop.seconds:.1f} s with the code "
        f"{stop.code}.",
    ]


def plot(result: LoadResult, folder: Path) -> list[Path]:
    """Write both plots; their paths."""
    plot_latency(result, folder / LATENCY)
    plot_memory(result, folder / MEMORY)
    return [folder / LATENCY, folder / MEMORY]


def block(name: str, results: Path, link: str) -> str | None:
    """Plots, sentences and tables of the size that `name` names; None where nothing has been
    measured."""
    if not (results / name / FILE).is_file():
        return None
    result, link = read_load(results / name / FILE), f"{link}/{name}"
    parts = [
        f"![latency against the rate of arrivals]({link}/{LATENCY})",
        *lines(result),
        markdown_table(*rate_table(result)),
        "\n".join(f"- *{target}*: {options}" for target, options in result.options.items()),
        "Other bounds, read off between the levels that were measured:",
        markdown_table(*bound_table(result)),
        'What was computed; "in the house" is how many requests a new one met, on average:',
        markdown_table(*work_table(result)),
        f"![memory against time]({link}/{MEMORY})",
    ]
    return "\n\n".join(parts)


def record(runs: Path, results: Path) -> None:
    """Take a full result into the folder of its size in `results`, with its plots."""
    result = read_load(runs / FILE)
    if result.budget == "full":
        folder = results / result.config.size
        result.write(folder / FILE)
        plot(result, folder)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if math.isfinite(ratio) else ""


if __name__ == "__main__":
    fill_page("serving under load", block, record)
